"""What the built-in model can do: the figures of docs/microworld.md, measured.

    python benchmarks/microworld.py            # prints a table, writes microworld.json and .png to results/microworld

About 20 minutes on two cores, a minute on a GPU. Nothing here is timed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

if __name__ == "__main__":  # the benchmarks are no installed package
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.microworld_fusion import Setting, figures, right, run_round, triples
from dfusion_core.attention.control import capturing
from dfusion_core.attention.masks import item_mask, item_tokens, merge
from dfusion_core.diffusion.denoise import Capture, collect_maps
from dfusion_core.evaluation.sheets import Line, Tile, sheet
from dfusion_core.microworld.composition import COMPOSITIONS, Composition
from dfusion_core.microworld.drawing import draw, object_masks
from dfusion_core.microworld.grammar import TEMPLATES, near_misses
from dfusion_core.microworld.locate import WEIGHTS
from dfusion_core.microworld.oracle import Oracle, load_oracle
from dfusion_core.microworld.pretrain.network import scheduler
from dfusion_core.microworld.prompts import items
from dfusion_core.microworld.scenes import Scene, caption, random_scene
from dfusion_core.models.policy import Policy, load_policy
from dfusion_core.params import Model, Reward, Sample, load_params
from dfusion_core.rewards.scoring import Scorer, load_reward

SEED = 12_345  # of the held-out drawings: no step of the training uses it
TIMESTEPS = (251, 301, 351, 401, 451)
THRESHOLDS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0)
SHOWN = 12  # pairs of each template on the sheet


@dataclass(frozen=True)
class Measured:
    """A model with its reward and judge."""

    policy: Policy
    reward: Scorer
    oracle: Oracle
    how: Composition

    @classmethod
    def load(cls, folder: Path, sample: Sample, composition: str) -> Measured:
        """What lies in a folder of weights."""
        built_in = folder.resolve() == WEIGHTS.resolve()
        policy = load_policy(Model(id="micro-world" if built_in else str(folder)), sample, None)
        name = "micro-clip" if built_in else f"local-dir:{folder / 'clip'}"
        reward = load_reward(Reward(model=name), policy.device)
        return cls(policy, reward, load_oracle(folder / "oracle"), COMPOSITIONS[composition])


def drawings(template: str, count: int, how: Composition) -> list[Scene]:
    """Held-out scenes of a template."""
    seeds = ([SEED, TEMPLATES.index(template), i] for i in range(count))
    return [random_scene(np.random.default_rng(seed), template, how) for seed in seeds]


def pixels(scenes: list[Scene]) -> torch.Tensor:
    """Their drawings (n, 3, 64, 64) uint8."""
    return torch.from_numpy(np.stack([draw(scene) for scene in scenes])).permute(0, 3, 1, 2)


def psnr(policy: Policy, x: torch.Tensor) -> float:
    """Mean peak signal-to-noise ratio (dB) of pictures (n, 3, 64, 64) after encoding and decoding."""
    with torch.no_grad():
        latents = policy.vae.encode(x.to(policy.device).float() / 127.5 - 1).latent_dist.mean
    again = policy.decode(latents * policy.vae.config.scaling_factor).permute(0, 3, 1, 2)
    error = (again.float() - x.float()).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(255**2 / error)).mean())


@torch.no_grad()
def mask_iou(policy: Policy, scenes: list[Scene]) -> dict[float, float]:
    """Mean intersection over union of Eq. 4's mask (relative threshold, XOR) with the drawn objects.

    Drawings are noised to each of TIMESTEPS; the true mask is the objects' pixels, averaged over each cell of the
    map and cut at one half. The maps come from the conditional prediction, as in sampling.
    """
    drawn = pixels(scenes).to(policy.device).float() / 127.5 - 1
    x = policy.vae.encode(drawn).latent_dist.mean * policy.vae.config.scaling_factor
    prompts = [caption(scene) for scene in scenes]
    text = policy.embed(prompts).states
    tokens = [[item_tokens(policy.tokenizer, p, item) for item in items(p)] for p in prompts]
    shapes = torch.from_numpy(np.stack([np.any(list(object_masks(s).values()), axis=0) for s in scenes])).float()
    schedule = scheduler()
    found: dict[float, list[float]] = {threshold: [] for threshold in THRESHOLDS}
    for number, timestep in enumerate(TIMESTEPS):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(SEED + number)).to(x.device)
        steps = torch.full((len(x),), timestep, device=x.device)
        with capturing(policy.unet) as tap:
            policy.unet(schedule.add_noise(x, noise, steps), steps, text)
        maps = collect_maps(tap.maps(), Capture("up_1", tokens, max(map(len, tokens)))).cpu()
        truth = F.adaptive_avg_pool2d(shapes[:, None], maps.shape[-2:])[:, 0] >= 0.5
        for threshold in THRESHOLDS:
            masks = item_mask(maps, threshold, "relative") & (maps.sum((-2, -1), keepdim=True) > 0)
            found[threshold].append(iou(merge(masks, "xor"), truth))
    return {threshold: float(np.mean(values)) for threshold, values in found.items()}


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over rows of |a and b| / |a or b|, masks (n, y, x) bool."""
    return float(((a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp(min=1)).mean())


def ranked_first(reward: Scorer, scenes: list[Scene]) -> float:
    """Share of drawings whose caption has a higher cosine than every near miss of the caption."""
    clip = reward.clip
    pictures, prompts = pixels(scenes).permute(0, 2, 3, 1).numpy(), [caption(scene) for scene in scenes]
    seen, first = clip.embed_pictures(pictures), 0
    for picture, prompt in zip(seen, prompts, strict=True):
        cosine = clip.embed_prompts([prompt, *near_misses(prompt)]) @ picture
        first += bool(cosine[0] > cosine[1:].max())
    return first / len(scenes)


def megabytes(folder: Path) -> dict[str, float]:
    """MiB of the weights of each part."""
    parts = [part for part in folder.iterdir() if part.is_dir()]
    sizes = {p.name: sum(f.stat().st_size for f in p.glob("*.safetensors")) / 2**20 for p in parts}
    return {name: round(size, 2) for name, size in sorted(sizes.items()) if size}


def parts_alone(m: Measured, template: str, count: int) -> dict[str, Any]:
    """Figures of autoencoder, CLIP, oracle and cross-attention on held-out drawings of a template."""
    scenes = drawings(template, count, m.how)
    x = pixels(scenes)
    drawn = x.permute(0, 2, 3, 1).numpy()
    return {
        "oracle_on_drawings": float(right(m.oracle, drawn, [caption(s) for s in scenes]).mean()),
        "clip_ranks_first": ranked_first(m.reward, scenes),
        "mask_iou": mask_iou(m.policy, scenes),
        "vae_psnr": psnr(m.policy, x),
    }


def measure(m: Measured, count: int, s: Setting) -> tuple[dict[str, Any], np.ndarray]:
    """All figures, and a sheet: reference, base and target of SHOWN pairs of each template, one below the other."""
    result: dict[str, Any] = {}
    rows: list[list[np.ndarray]] = []
    for template in TEMPLATES:
        found = run_round(m.policy, m.reward, template, s)
        result[template] = parts_alone(m, template, count) | figures(
            found, m.oracle, template, m.policy.schedule.num_steps, s
        )
        rows += triples(found, SHOWN)
        print(template, json.dumps(result[template], indent=1), flush=True)
    return result, np.asarray(sheet([Line([Tile(picture) for picture in row]) for row in rows]))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the model, its CLIP and its oracle")
    parser.add_argument("--composition", choices=COMPOSITIONS, default="conventional")
    parser.add_argument("--drawings", type=int, default=500, help="held-out drawings per template")
    parser.add_argument("--prompts", type=int, default=40, help="prompts of the round of each template")
    parser.add_argument("--images", type=int, default=16, help="images of each")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--out", type=Path, default=Path("results/microworld"), help="folder for microworld.json and .png"
    )
    given = parser.parse_args()
    from PIL import Image

    params = load_params("sample", "extract", "fuse", "adopt")
    s = Setting(given.prompts, given.images, given.batch, SEED, params.extract, params.fuse, params.adopt)
    result, sheet = measure(Measured.load(given.weights, params.sample, given.composition), given.drawings, s)
    result["weights_mib"] = megabytes(given.weights) | {"total": round(sum(megabytes(given.weights).values()), 2)}
    result["measured"] = {
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "drawings": given.drawings,
        "prompts": given.prompts,
        "images": given.images,
        **params.sample.model_dump(),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "microworld.json").write_text(json.dumps(result, indent=2) + "\n")
    Image.fromarray(sheet).resize((sheet.shape[1] * 2, sheet.shape[0] * 2), Image.Resampling.NEAREST).save(
        given.out / "microworld.png", optimize=True
    )
    print(json.dumps(result["weights_mib"]))


if __name__ == "__main__":
    main()
