"""What the tests of single stages share: run one, change a parameter, take an output away, compare bytes."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from dfusion_core.diffusion import ddim
from dfusion_core.models.policy import Policy, load_policy
from dfusion_core.params import load_params
from dfusion_core.store import read_stage
from dfusion_core.store.manifest import MANIFEST, read_manifest
from dfusion_core.store.provenance import hash_file, hash_of
from dfusion_core.store.publish import write_manifest
from dfusion_core.testing import tiny_params

T = 4  # of tiny_params


def run(stage: str, round: str = "r00") -> None:
    """Call the stage's function in this process, in the current folder."""
    function = getattr(import_module(f"stages.{stage}"), stage)
    function() if stage in ("code", "init", "prompts", "summary") else function(round)


def change(**changes: Any) -> None:
    """Write params.yaml anew: the tiny parameters with these changes."""
    tiny_params(Path(), **changes)


def forget(stage: str, round: str = "r00") -> None:
    """Delete what a stage published, as DVC does before it runs the stage."""
    shutil.rmtree(Path("runs", round, stage))


def reseal(stage: str, round: str = "r00") -> None:
    """Make the manifest fit what a test has put into an output, as if the stage had written it.

    The outputs that were made of it record its digest; they get the new one, as if they were made of what is there now.
    """
    folder = Path("runs", round, stage)
    manifest = read_manifest(folder)
    write_manifest(folder, manifest["fingerprint"], manifest["ingredients"], manifest["rows"])
    old, new = manifest["digest"], read_manifest(folder)["digest"]
    for file in Path("runs").rglob(MANIFEST):
        other = read_manifest(file.parent)
        made_of, inputs = other["ingredients"], other["ingredients"]["inputs"]
        if old in inputs.values():
            made_of |= {"inputs": {name: new if digest == old else digest for name, digest in inputs.items()}}
            write_manifest(file.parent, hash_of(made_of), made_of, other["rows"])


def content(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    return {str(p.relative_to(folder)): hash_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def array(stage: str, name: str, round: str = "r00") -> torch.Tensor:
    """A whole stored array."""
    return torch.from_numpy(read_stage(stage, round).array(name)[:])


def policy_of(round: str, *, train: bool = False) -> Policy:
    """The policy with the adapter that this round's training, or init, wrote."""
    params = load_params("model", "sample")
    return load_policy(params.model, params.sample, Path("runs", round, "train", "adapter"), train=train)


def noise_of_diffusers(folder: Path, x: torch.Tensor, text: str, **asked: Any) -> torch.Tensor:
    """The guided noise of the first of 4 steps of diffusers' own pipeline, guidance 3, caught on its way."""
    from diffusers import DDIMScheduler, DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    caught: list[torch.Tensor] = []
    step = pipeline.scheduler.step

    def catch(noise: torch.Tensor, *rest: Any, **more: Any) -> Any:
        caught.append(noise)
        return step(noise, *rest, **more)

    pipeline.scheduler.step = catch
    pipeline(text, num_inference_steps=4, guidance_scale=3.0, latents=x.clone(), output_type="latent", **asked)
    return caught[0]


def scheduler() -> Any:
    """diffusers' own DDIM sampler, as an independent Eq. (1)."""
    from diffusers import DDIMScheduler

    found = DDIMScheduler.from_pretrained("model/scheduler")
    found.set_timesteps(T)
    return found


def mean_and_std(policy: Policy, x_t: torch.Tensor, eps: torch.Tensor, i: int) -> tuple[torch.Tensor, float]:
    """Eq. (1) written out once more: the mean of x_{t-1} and the noise's standard deviation."""
    their = scheduler()
    timestep = int(their.timesteps[i])
    abar_t = float(their.alphas_cumprod[timestep])
    abar_prev = float(their.alphas_cumprod[max(timestep - 1000 // T, 0)])
    std = ((1 - abar_prev) / (1 - abar_t) * (1 - abar_t / abar_prev)) ** 0.5
    x_0 = (x_t - (1 - abar_t) ** 0.5 * eps) / abar_t**0.5
    assert abs(std - float(ddim.schedule(their, T, 1.0).std[i])) < 1e-6
    return abar_prev**0.5 * x_0 + (1 - abar_prev - std**2) ** 0.5 * eps, std
