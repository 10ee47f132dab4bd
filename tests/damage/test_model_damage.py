"""A bit of the model, the reward model or the prompt file: nothing is made with other weights without a word."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from harm import cut, flip, flip_any
from steps import content, forget, run

from dfusion_core.errors import DFusionError, ModelError, StoreError

MODEL = (
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "unet/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
    "scheduler/scheduler_config.json",
)


@pytest.mark.parametrize("name", MODEL)
def test_the_model_is_compared_with_what_init_wrote_down(project: Path, name: str) -> None:
    file = Path("model", name)
    flip(file, file.stat().st_size - 5, 1)
    forget("sample")
    with pytest.raises(ModelError, match=f"is not the model that this run began with: {name} differ"):
        run("sample")
    assert not Path("runs/r00/sample").exists()


@pytest.mark.parametrize("stage", ["train", "evaluate", "fuse"])
def test_by_the_later_stages_as_well(project: Path, stage: str) -> None:
    flip(Path("model", MODEL[0]), 5000, 0)
    forget(stage)
    with pytest.raises(ModelError, match=f"is not the model that this run began with: {MODEL[0]} differ"):
        run(stage)


def test_targets_are_not_scored_by_a_damaged_reward_model(project: Path) -> None:
    """Weights in a user's folder have no manifest: scoring anew would take them as they are, comparing would not."""
    flip(Path("clip/open_clip_model.safetensors"), 5000, 3)
    forget("adopt")
    with pytest.raises(StoreError, match="runs/r00/score was made from another 'reward'"):
        run("adopt")


@pytest.mark.parametrize("name", ["model/unet/diffusion_pytorch_model.safetensors", "clip/open_clip_model.safetensors"])
def test_weights_that_end_too_early(project: Path, name: str) -> None:
    cut(Path(name), random.Random(0))
    with pytest.raises(DFusionError, match="cannot be loaded"):
        run("init" if name.startswith("model") else "score")


def test_a_prompt_file_that_is_damaged_is_another_prompt_file(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever bit it is: refused, or said and made again; never taken for the old one."""
    dice, before = random.Random(0), Path("prompts.yaml").read_bytes()
    for _ in range(20):
        flip_any(Path("prompts.yaml"), dice)
        try:
            run("extract")
        except DFusionError:
            assert content(Path("runs/r00/extract"))
        else:
            assert "is made again, because the input 'prompts' changed" in capsys.readouterr().out
        Path("prompts.yaml").write_bytes(before)
