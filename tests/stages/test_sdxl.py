"""SDXL's topology: names of layers, both text encoders, the further conditions, and a whole round."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file
from steps import run

from dfusion_core.attention.layers import cross_attention_modules, first_cross_up_block, self_attention_modules
from dfusion_core.commands.export.writing import export_round
from dfusion_core.models.policy import Policy, load_policy
from dfusion_core.params.sections import Model, Sample
from dfusion_core.store import read_stage
from dfusion_core.store.paths import ROUND_STAGES
from dfusion_core.testing import tiny_params, tiny_sdxl

TEXTS = ["a heart holding a balloon", "", "the star above the moon"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def policy(folder: Path) -> Iterator[Policy]:
    """Its convolutions in diffusers' memory order, so that the same sums are rounded alike."""
    policy = load_policy(Model(id=str(folder), device="cpu"), Sample(num_steps=4, guidance_scale=3.0), None)
    policy.unet.to(memory_format=torch.contiguous_format)
    yield policy


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(folder, use_safetensors=True, add_watermarker=False)


def test_prompts_are_embedded_as_by_diffusers(policy: Policy, pipeline: StableDiffusionXLPipeline) -> None:
    """Also the empty prompt, which is all zeros in SDXL."""
    found = policy.embed(TEXTS)
    for row, text in enumerate(TEXTS):
        states, none, pooled, none_pooled = pipeline.encode_prompt(text or "any", do_classifier_free_guidance=True)
        expected = (states, pooled) if text else (none, none_pooled)
        torch.testing.assert_close(found.states[row : row + 1], expected[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(found.pooled[row : row + 1], expected[1], rtol=0, atol=1e-6)
    assert not found.states[1].any() and found.states[0].any()


def test_noise_is_that_of_the_pipeline(policy: Policy, pipeline: StableDiffusionXLPipeline) -> None:
    """The guided noise of one DDIM step of diffusers' own pipeline, caught on its way."""
    from diffusers import DDIMScheduler

    caught: list[torch.Tensor] = []
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    step = pipeline.scheduler.step

    def catch(noise: torch.Tensor, *rest: Any, **more: Any) -> Any:
        caught.append(noise)
        return step(noise, *rest, **more)

    pipeline.scheduler.step = catch
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        TEXTS[0],
        num_inference_steps=4,
        guidance_scale=3.0,
        latents=x.clone(),
        height=16,
        width=16,
        output_type="latent",
    )
    found = policy.predict_noise(x, 0, policy.embed(TEXTS[:1]))
    torch.testing.assert_close(caught[0], found, rtol=0, atol=1e-5)


def test_layers_by_topology(policy: Policy) -> None:
    """Attention in down_1, down_2, mid, up_0, up_1; 2 and 10 transformer blocks an attention."""
    assert first_cross_up_block(policy.unet) == "up_0"
    count = {
        name: len(self_attention_modules(policy.unet, [name])) for name in ("down_1", "down_2", "mid", "up_0", "up_1")
    }
    assert count == {"down_1": 4, "down_2": 20, "mid": 10, "up_0": 30, "up_1": 6}
    assert len(cross_attention_modules(policy.unet, "up_0")) == 30
    same = cross_attention_modules(policy.unet, "same_resolution")  # the lowest: down_2, mid, up_0
    assert len(same) == 20 + 10 + 30


@pytest.mark.slow
def test_a_round(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage, from this model's maps to a trained adapter and its export, which loads what it wrote."""
    monkeypatch.chdir(tmp_path)
    tiny_params(
        tmp_path,
        model={"id": str(folder)},
        sample={"maps": "up_0"},
        lora={"targets": ["to_v"]},
        fuse={"layers": ["mid", "up_0", "up_1"]},
        extract={"keep_kv": 1},
    )
    run("init")
    run("evaluate", "init")
    for stage in ROUND_STAGES:
        run(stage)
    target = np.asarray(read_stage("fuse", "r00").array("x")[:])
    pairs = read_stage("extract", "r00").table("pairs")
    base = read_stage("sample", "r00").rows("x", pairs.base_image)
    assert (target[:, 1] == base[:, 1]).all() and not (target[:, -1] == base[:, -1]).all(axis=(1, 2, 3)).any()
    assert "up_0.29/K" in read_stage("kv", "r00").names
    assert (read_stage("train", "r00").table("updates").gradient_norm > 0).all()
    export_round("r00", tmp_path / "out", "name", "fp32", force=False, check=True)
    assert "lora_unet_middle_block_1_transformer_blocks_9_attn1_to_v.alpha" in load_file(
        tmp_path / "out/name.safetensors"
    )
