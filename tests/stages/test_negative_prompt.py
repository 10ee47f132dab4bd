"""sample.negative_prompt: what guidance leads away from, in every stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from steps import change, forget, noise_of_diffusers, policy_of, run

from dfusion_core.commands.export.writing import export_round
from dfusion_core.errors import PromptsError
from dfusion_core.models.policy import load_policy
from dfusion_core.params.sections import Model, Sample
from dfusion_core.store import read_stage
from dfusion_core.store.paths import ROUND_STAGES
from dfusion_core.testing import tiny_model, tiny_sdxl

NEGATIVE = "a blue moon"


@pytest.mark.parametrize("write", [tiny_model, tiny_sdxl])
def test_noise_is_that_of_diffusers(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    """The guided noise of a DDIM step of diffusers' own pipeline with the same negative prompt."""
    folder = write(tmp_path / "model")
    sample = Sample(num_steps=4, guidance_scale=3.0, negative_prompt=NEGATIVE)
    policy = load_policy(Model(id=str(folder), device="cpu"), sample, None)
    x = torch.randn(1, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    found = policy.predict_noise(x, 0, policy.embed(["a heart"]))
    expected = noise_of_diffusers(folder, x, "a heart", negative_prompt=NEGATIVE, height=16, width=16)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    plain = load_policy(Model(id=str(folder), device="cpu"), Sample(num_steps=4, guidance_scale=3.0), None)
    assert not torch.allclose(found, plain.predict_noise(x, 0, plain.embed(["a heart"])), atol=1e-3)


@pytest.mark.slow
def test_a_round_and_its_export(project: Path) -> None:
    """Training replays the log-probs of sampling, which it refuses to do with another unconditional half."""
    change(sample={"negative_prompt": NEGATIVE})
    for round, stage in [("init", "evaluate"), *(("r00", stage) for stage in ROUND_STAGES)]:
        forget(stage, round)
        run(stage, round)
    assert policy_of("r00").negative_prompt == NEGATIVE
    assert (read_stage("train", "r00").table("updates").gradient_norm > 0).all()
    out = project / "out"
    export_round("r00", out, "name", "fp16", force=False, check=False)
    card = (out / "README.md").read_text()
    assert f'negative_prompt="{NEGATIVE}"' in card and f"| negative prompt | {NEGATIVE} |" in card
    for picture in [out / "grid.png", *sorted((out / "samples").glob("*.png"))[:1]]:
        assert f"Negative prompt: {NEGATIVE}\nSteps: " in Image.open(picture).info["parameters"]


def test_a_word_that_the_model_does_not_know(project: Path) -> None:
    change(sample={"negative_prompt": "schön moon"})
    forget("sample")
    with pytest.raises(PromptsError) as caught:
        run("sample")
    assert "'schön'" in str(caught.value)
