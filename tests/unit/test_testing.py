"""The tiny model, reward and project that are offered to users' tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from dfusion_core.params.loading import load_everything
from dfusion_core.params.sections import Everything
from dfusion_core.store.provenance import hash_file
from dfusion_core.testing import PARAMS, tiny_clip, tiny_model, tiny_params


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hash_file(path) for path in folder.rglob("*") if path.is_file()}


def test_every_section_is_there(tmp_path: Path) -> None:
    """dvc.yaml names them all, and DVC wants each of them in params.yaml."""
    assert PARAMS.keys() == Everything.model_fields.keys()
    assert load_everything(tiny_params(tmp_path)).train.pairs_per_update == 4


def test_changes_are_merged_into_sections(tmp_path: Path) -> None:
    params = load_everything(tiny_params(tmp_path, seed=3, sample={"num_steps": 3}, rounds={"r00": {"prev": "init"}}))
    assert (params.seed, params.sample.num_steps, params.sample.images_per_prompt) == (3, 3, 4)
    assert list(params.rounds) == ["r00"]
    (tmp_path / "prompts.yaml").write_text("train: []\n")
    tiny_params(tmp_path)  # what is there stays
    assert yaml.safe_load((tmp_path / "prompts.yaml").read_text()) == {"train": []}


@pytest.mark.parametrize("write", [tiny_model, tiny_clip])
def test_the_seed_decides_the_weights(tmp_path: Path, write) -> None:  # type: ignore[no-untyped-def]
    state = torch.random.get_rng_state()
    first, again, other = (hashes(write(tmp_path / str(n), seed)) for n, seed in enumerate((0, 0, 1)))
    assert first == again != other
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_ordinary_pipeline_draws_with_it(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model(tmp_path), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    (picture,) = pipeline("a blue and dotted square", num_inference_steps=2).images
    assert picture.size == (16, 16)
    assert sum(p.numel() for p in pipeline.unet.parameters()) < 200_000
