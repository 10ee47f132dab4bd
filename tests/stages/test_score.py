"""score: the raw cosine of open_clip, one row an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from steps import array, change, content, forget, run

from dfusion_core.errors import MissingStage, RewardError
from dfusion_core.store import read_stage


def cosines(pictures: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """open_clip as its README uses it, one picture at a time."""
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:clip")
    tokenizer = open_clip.get_tokenizer("local-dir:clip")
    model.eval()
    found = []
    with torch.no_grad():
        for picture, prompt in zip(pictures, prompts, strict=True):
            seen = model.encode_image(preprocess(Image.fromarray(picture.numpy()))[None])
            said = model.encode_text(tokenizer([prompt]))
            found.append(torch.cosine_similarity(seen, said))
    return torch.cat(found)


def test_rewards_are_cosines(project: Path) -> None:
    scores, images = read_stage("score", "r00").table("scores"), read_stage("sample", "r00").table("images")
    assert list(scores.columns) == ["image", "prompt_id", "reward"]
    assert scores.image.tolist() == images.image.tolist()
    assert scores.prompt_id.tolist() == images.prompt_id.tolist()
    expected = cosines(array("sample", "picture"), images.prompt.tolist())
    np.testing.assert_allclose(scores.reward, expected.numpy(), rtol=0, atol=1e-6)
    assert scores.reward.nunique() == len(scores)


def test_the_same_bytes_again_and_the_batch_size(project: Path, finished: Path) -> None:
    forget("score")
    run("score")
    assert content(Path("runs/r00/score")) == content(finished / "runs/r00/score")
    before = read_stage("score", "r00").table("scores").reward
    change(reward={"batch_size": 3})
    run("score")
    np.testing.assert_allclose(read_stage("score", "r00").table("scores").reward, before, rtol=0, atol=1e-6)


def test_a_missing_reward_model(project: Path) -> None:
    for name in ("local-dir:nowhere", "ViT-Z-99"):
        change(reward={"model": name})
        with pytest.raises(RewardError) as caught:
            run("score")
        assert caught.value.message.startswith(f"reward: '{name}' cannot be loaded: ")
        assert caught.value.hint == (
            "Set reward.model to a name that open_clip knows, local-dir:FOLDER, or micro-clip.")
    assert read_stage("score", "r00").table("scores").shape == (8, 3)  # the old one is still there


def test_nothing_was_sampled(project: Path) -> None:
    forget("sample")
    with pytest.raises(MissingStage, match="'dvc repro -s sample@r00'"):
        run("score")
