"""What the built-in model can do: figures (a)-(g) of docs/microworld.md, measured.

    python benchmarks/microworld.py            # prints a table, writes docs/microworld.json and docs/microworld.png

About 8 minutes on two cores with --images 2. Nothing here is timed.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dfusion_core.attention.control import capturing
from dfusion_core.attention.masks import item_mask, item_tokens, merge
from dfusion_core.diffusion.denoise import collect_maps, denoise
from dfusion_core.diffusion.noise import image_seed, trajectory_noises
from dfusion_core.evaluation.sheets import Line, Tile, sheet
from dfusion_core.microworld.grammar import TEMPLATES, near_misses
from dfusion_core.microworld.locate import WEIGHTS
from dfusion_core.microworld.oracle import Oracle, judge, load_oracle
from dfusion_core.microworld.pretrain.unet import scheduler
from dfusion_core.microworld.prompts import items, prompt_lists
from dfusion_core.microworld.scenes import Scene, caption, draw, object_masks, random_scene
from dfusion_core.models.policy import Policy, load_policy
from dfusion_core.params import Model, Reward, Sample
from dfusion_core.rewards.scoring import Clip, load_reward

SEED = 12_345  # of the held-out drawings: no step of the training uses it
TIMESTEPS = (251, 301, 351, 401, 451)
THRESHOLDS = (1.0, 1.1, 1.2, 1.3, 1.5, 1.75, 2.0)
GUIDANCE = (5.0, 2.0)  # the paper's, and that of params.yaml
SHOWN = 8  # prompts of each template on the sheet


def drawings(template: str, count: int) -> list[Scene]:
    """Held-out scenes of a template."""
    return [random_scene(np.random.default_rng([SEED, TEMPLATES.index(template), i]), template) for i in range(count)]


def pixels(scenes: list[Scene]) -> torch.Tensor:
    """Their drawings (n, 3, 64, 64) uint8."""
    return torch.from_numpy(np.stack([draw(scene) for scene in scenes])).permute(0, 3, 1, 2)


def sample(policy: Policy, prompts: list[str], per_prompt: int, guidance: float, batch: int = 32) -> np.ndarray:
    """Pictures of each prompt (prompt, per_prompt, 64, 64, 3), 20 steps, eta 1."""
    policy.guidance_scale = guidance
    texts = [prompt for prompt in prompts for _ in range(per_prompt)]
    seeds = [image_seed(SEED, "figures", p, n) for p in range(len(prompts)) for n in range(per_prompt)]
    empty, parts = policy.embed([""]), []
    for start in range(0, len(texts), batch):
        part = texts[start:start + batch]
        x_T, noise = trajectory_noises(seeds[start:start + batch], policy.latent_shape, policy.schedule.num_steps)
        found = denoise(policy, x_T, noise, policy.embed(part), empty, part)
        parts.append(policy.decode(found.x[:, -1]).numpy())
    return np.concatenate(parts).reshape(len(prompts), per_prompt, *parts[0].shape[1:])


def psnr(policy: Policy, x: torch.Tensor) -> float:
    """Mean peak signal-to-noise ratio (dB) of pictures (n, 3, 64, 64) after encoding and decoding."""
    with torch.no_grad():
        latents = policy.vae.encode(x.float() / 127.5 - 1).latent_dist.mean
    again = policy.decode(latents * policy.vae.config.scaling_factor).permute(0, 3, 1, 2)
    error = (again.float() - x.float()).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(255**2 / error)).mean())


@torch.no_grad()
def mask_iou(policy: Policy, scenes: list[Scene]) -> dict[float, float]:
    """Mean intersection over union of Eq. 4's mask (relative threshold, XOR) with the drawn objects.

    Drawings are noised to each of TIMESTEPS; the true mask is the objects' pixels, averaged over each cell of the
    map and cut at one half. The maps come from the conditional prediction, as in sampling.
    """
    x = policy.vae.encode(pixels(scenes).float() / 127.5 - 1).latent_dist.mean * policy.vae.config.scaling_factor
    prompts = [caption(scene) for scene in scenes]
    text = policy.embed(prompts)
    tokens = [[item_tokens(policy.tokenizer, p, item) for item in items(p)] for p in prompts]
    shapes = torch.from_numpy(np.stack([np.any(list(object_masks(s).values()), axis=0) for s in scenes])).float()
    schedule = scheduler()
    found: dict[float, list[float]] = {threshold: [] for threshold in THRESHOLDS}
    for number, timestep in enumerate(TIMESTEPS):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(SEED + number))
        steps = torch.full((len(x),), timestep)
        with capturing(policy.unet) as tap:
            policy.unet(schedule.add_noise(x, noise, steps), steps, text)
        maps = collect_maps(tap.maps(), tokens, max(map(len, tokens)))
        truth = F.adaptive_avg_pool2d(shapes[:, None], maps.shape[-2:])[:, 0] >= 0.5
        for threshold in THRESHOLDS:
            masks = item_mask(maps, threshold, "relative") & (maps.sum((-2, -1), keepdim=True) > 0)
            found[threshold].append(iou(merge(masks, "xor"), truth))
    return {threshold: float(np.mean(values)) for threshold, values in found.items()}


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over rows of |a and b| / |a or b|, masks (n, y, x) bool."""
    return float(((a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp(min=1)).mean())


def accuracy(oracle: Oracle, pictures: np.ndarray, prompts: list[str]) -> float:
    """Share of pictures (n, 64, 64, 3) that the oracle finds right."""
    return float(judge(oracle, torch.from_numpy(pictures).permute(0, 3, 1, 2), prompts)[0].float().mean())


def ranked_first(clip: Clip, scenes: list[Scene]) -> float:
    """Share of drawings whose caption has a higher cosine than every near miss of the caption."""
    pictures, prompts = pixels(scenes).permute(0, 2, 3, 1).numpy(), [caption(scene) for scene in scenes]
    seen, right = clip.embed_pictures(pictures), 0
    for picture, prompt in zip(seen, prompts, strict=True):
        cosine = clip.embed_prompts([prompt, *near_misses(prompt)]) @ picture
        right += bool(cosine[0] > cosine[1:].max())
    return right / len(scenes)


def megabytes() -> dict[str, float]:
    """MiB of the weights of each part."""
    parts = [folder for folder in WEIGHTS.iterdir() if folder.is_dir()]
    sizes = {p.name: sum(f.stat().st_size for f in p.glob("*.safetensors")) / 2**20 for p in parts}
    return {name: round(size, 2) for name, size in sorted(sizes.items()) if size}


def measure(count: int, per_prompt: int) -> tuple[dict[str, Any], np.ndarray]:
    """All figures, and a sheet of samples: SHOWN prompts of each template, one below the other, at each guidance."""
    policy = load_policy(Model(), Sample(), None)
    clip = load_reward(Reward(model="micro-clip"), policy.device).clip
    oracle = load_oracle()
    result: dict[str, Any] = {}
    rows: list[list[np.ndarray]] = [[] for _ in range(SHOWN)]
    for template in TEMPLATES:
        scenes = drawings(template, count)
        x = pixels(scenes)
        prompts = [p for part in prompt_lists(template) for p in part]
        texts = [p for p in prompts for _ in range(per_prompt)]
        drawn = {guidance: sample(policy, prompts, per_prompt, guidance) for guidance in GUIDANCE}
        flat = {guidance: p.reshape(-1, *p.shape[2:]) for guidance, p in drawn.items()}
        result[template] = {
            "a_base_accuracy": {g: accuracy(oracle, p, texts) for g, p in flat.items()},
            "base_clipscore": {g: float(clip(p, texts).mean()) for g, p in flat.items()},
            "b_oracle_on_drawings": float(judge(oracle, x, [caption(s) for s in scenes])[0].float().mean()),
            "c_clip_ranks_first": ranked_first(clip, scenes),
            "d_mask_iou": mask_iou(policy, scenes),
            "e_vae_psnr": psnr(policy, x)}
        for p, row in enumerate(rows):
            row += [picture for guidance in GUIDANCE for picture in drawn[guidance][p]]
        print(template, json.dumps(result[template], indent=1), flush=True)
    result["f_weights_mib"] = megabytes() | {"total": round(sum(megabytes().values()), 2)}
    result["machine"] = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    return result, np.asarray(sheet([Line([Tile(picture) for picture in row]) for row in rows]))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drawings", type=int, default=500, help="held-out drawings per template")
    parser.add_argument("--images", type=int, default=4, help="samples per prompt (80 prompts per template)")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder for microworld.json and .png")
    given = parser.parse_args()
    from PIL import Image

    result, sheet = measure(given.drawings, given.images)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "microworld.json").write_text(json.dumps(result, indent=2) + "\n")
    Image.fromarray(sheet).resize((sheet.shape[1] * 2, sheet.shape[0] * 2), Image.Resampling.NEAREST).save(
        given.out / "microworld.png", optimize=True)
    print(json.dumps(result["f_weights_mib"]))


if __name__ == "__main__":
    main()
