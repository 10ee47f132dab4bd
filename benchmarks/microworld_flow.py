"""What the built-in flow transformer can do: the figures of docs/transformers.md, measured.

    python benchmarks/microworld_flow.py blocks    # which blocks localise: IoU of Eq. 4's mask by block and noise level
    python benchmarks/microworld_flow.py carry     # do keys and values carry appearance (Figure 8's rows), by blocks
    python benchmarks/microworld_flow.py round     # one round of each template: right, adopted, what targets gain

Parameters are those of the profile micro-flow. Tables go to results/microworld_flow. Nothing here is timed.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

if __name__ == "__main__":  # the benchmarks are no installed package
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.microworld import SEED, drawings, iou, pixels
from benchmarks.microworld_fusion import Setting, figures, right, run_round, triples
from dfusion_core.attention.control import capturing
from dfusion_core.attention.layers import layer_paths
from dfusion_core.attention.masks import item_mask, merge
from dfusion_core.commands.profile import FOLDER
from dfusion_core.diffusion.denoise import Capture, collect_maps
from dfusion_core.diffusion.noise import trajectory_noises
from dfusion_core.evaluation.sheets import Line, Tile, sheet
from dfusion_core.fusion.targets import References, denoise_fused
from dfusion_core.microworld.composition import CONVENTIONAL
from dfusion_core.microworld.drawing import object_masks
from dfusion_core.microworld.grammar import TEMPLATES
from dfusion_core.microworld.oracle import load_oracle
from dfusion_core.microworld.prompts import items
from dfusion_core.microworld.scenes import Scene, caption
from dfusion_core.models.policy import Policy, load_policy
from dfusion_core.pairing.plan import image_plan
from dfusion_core.params import Params, load_params
from dfusion_core.prompts.reading import load_prompts
from dfusion_core.rewards.scoring import load_reward

LEVELS = (0.9, 0.7, 0.5, 0.3, 0.1)  # noise levels s of a drawing
THRESHOLDS = (1.25, 1.5, 2.0)
OUT = Path("results/microworld_flow")
Tables = dict[str, pd.DataFrame]


def parameters() -> Params:
    """The sections that are needed of the profile."""
    return load_params("model", "sample", "extract", "fuse", "adopt", "reward", path=FOLDER / "micro-flow.yaml")


# --- which blocks localise ---


@torch.no_grad()
def block_maps(policy: Policy, scenes: list[Scene], level: float) -> dict[str, torch.Tensor]:
    """Maps (n, item, y, x) of every block for drawings noised to a level, from the conditional prediction."""
    drawn = pixels(scenes).to(policy.device).float() / 127.5 - 1
    x = policy.vae.encode(drawn).latent_dist.mean * policy.vae.config.scaling_factor
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(SEED)).to(x)
    prompts = [caption(scene) for scene in scenes]
    tokens = [[policy.encode.positions(p, item) for item in items(p)] for p in prompts]
    capture = Capture("", tokens, max(map(len, tokens)))
    text = policy.embed(prompts)
    with ExitStack() as stack:
        taps = {name: stack.enter_context(capturing(policy.unet, name)) for name in layer_paths(policy.unet)}
        policy.unet(
            hidden_states=x + level * (noise - x),
            encoder_hidden_states=text.states,
            pooled_projections=text.pooled,
            timestep=torch.full((len(x),), 1000 * level),
        )
        return {name: collect_maps(tap.maps(), capture).cpu() for name, tap in taps.items()}


def truth(scenes: list[Scene], size: tuple[int, int]) -> torch.Tensor:
    """The objects' pixels, averaged over each cell of the map and cut at one half: bool (n, y, x)."""
    shapes = torch.from_numpy(np.stack([np.any(list(object_masks(s).values()), axis=0) for s in scenes])).float()
    return F.adaptive_avg_pool2d(shapes[:, None], size)[:, 0] >= 0.5


def measure_blocks(policy: Policy, count: int) -> Tables:
    """IoU by template, block, noise level and relative threshold."""
    rows: list[dict[str, Any]] = []
    for template in TEMPLATES:
        scenes = drawings(template, count, CONVENTIONAL)
        wanted = truth(scenes, (8, 8))
        for level in LEVELS:
            for block, maps in block_maps(policy, scenes, level).items():
                for threshold in THRESHOLDS:
                    there = item_mask(maps, threshold, "relative") & (maps.sum((-2, -1), keepdim=True) > 0)
                    found = iou(merge(there, "xor"), wanted)
                    rows.append(
                        {"template": template, "block": block, "level": level, "threshold": threshold, "iou": found}
                    )
    return {"blocks": pd.DataFrame(rows)}


# --- do keys and values carry appearance ---


def block_sets(policy: Policy) -> dict[str, list[str]]:
    """All blocks, both halves, and each alone."""
    names = list(layer_paths(policy.unet))
    half = len(names) // 2
    sets = {"all": names, "first half": names[:half], "second half": names[half:]}
    return sets | {name: [name] for name in names}


def measure_carry(policy: Policy, template: str, prompts: int, images: int) -> Tables:
    """Bases denoised with all image keys and values of another image of the prompt, at every step.

    ``carried``: 1 - distance(target, reference) / distance(base, reference) in pixels: 1 where the target is the
    reference, 0 where it is as far from it as the base.
    """
    chosen = load_prompts(f"dfusion_core/prompts/micro_{template}.yaml").train[:prompts]
    plan = image_plan(chosen, images, SEED, "carry")
    text = policy.embed(plan.prompt.tolist())
    made = policy.sample(plan.seed.tolist(), text)
    other = plan.image.to_numpy().reshape(prompts, images)[:, ::-1].flatten()  # of the same prompt
    x, T = made.trajectories.x, policy.schedule.num_steps
    _, noise = trajectory_noises(plan.seed.tolist(), policy.latent_shape, T)
    base, reference = made.picture.numpy(), made.picture[other].numpy()
    everywhere = References(x[other], torch.ones(len(plan), T, 8, 8, dtype=torch.bool))
    rows, lines = (
        [],
        [Line([Tile(p) for p in reference[:12]], "references"), Line([Tile(p) for p in base[:12]], "bases")],
    )
    for name, layers in block_sets(policy).items():
        fused = denoise_fused(policy, x, noise, text, everywhere, layers, range(T))
        target = policy.decode(fused[:, -1]).numpy()
        rows.append({"blocks": name, "template": template} | carried(target, base, reference))
        print(rows[-1], flush=True)
        lines.append(Line([Tile(p) for p in target[:12]], name))
    OUT.mkdir(parents=True, exist_ok=True)
    sheet(lines, 64).save(OUT / "carry.png")
    return {"carry": pd.DataFrame(rows)}


def carried(target: np.ndarray, base: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Mean absolute differences of pixels, 0 to 1."""

    def apart(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.abs(a.astype(float) - b).mean() / 255)

    found = {"from_base": apart(target, base), "from_reference": apart(target, reference)}
    return found | {"carried": 1 - found["from_reference"] / apart(base, reference)}


# --- a round ---


def measure_round(policy: Policy, params: Params, prompts: int, images: int) -> dict[str, Any]:
    """The figures of docs/microworld.md that belong to a round, by template, and a sheet of triples."""
    reward, oracle, result = load_reward(params.reward, policy.device), load_oracle(), {}
    setting = Setting(prompts, images, 24, SEED, params.extract, params.fuse, params.adopt, maps=params.sample.maps)
    lines: list[Line] = []
    for template in TEMPLATES:
        found = run_round(policy, reward, template, setting)
        result[template] = figures(found, oracle, template, policy.schedule.num_steps, setting)
        result[template]["reference_right"] = float(
            right(oracle, found.pictures[found.pairs.reference_image], found.pairs.prompt.tolist()).mean()
        )
        lines += [Line([Tile(picture) for picture in row]) for row in triples(found, 12)]
        print(template, json.dumps(result[template], indent=1), flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    sheet(lines, 64).save(OUT / "round.png")
    return result


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("blocks", "carry", "round"))
    parser.add_argument("--weights", default="", help="model.id: another folder than the built-in one")
    parser.add_argument("--drawings", type=int, default=100, help="held-out drawings per template, for blocks")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--images", type=int, default=12, help="images of each prompt")
    given = parser.parse_args()
    params = parameters()
    model = params.model.model_copy(update={"id": given.weights or params.model.id})
    policy = load_policy(model, params.sample, None)
    OUT.mkdir(parents=True, exist_ok=True)
    if given.what == "round":
        found = measure_round(policy, params, given.prompts, given.images)
        (OUT / "round.json").write_text(json.dumps(found, indent=2) + "\n")
        return
    tables = (
        measure_blocks(policy, given.drawings)
        if given.what == "blocks"
        else measure_carry(policy, "attribute", given.prompts, given.images)
    )
    for name, table in tables.items():
        table.round(4).to_csv(OUT / f"{name}.csv", index=False)
        print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
