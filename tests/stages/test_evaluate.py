"""evaluate: the same seeds in every round, so that a gain compares an image with its own base image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from steps import T, array, change, content, forget, policy_of, run, scheduler

from dfusion_core.diffusion.noise import image_seed, trajectory_noises
from dfusion_core.errors import MissingStage, RewardError, StoreError
from dfusion_core.evaluation.sheets import GAP, TEXT
from dfusion_core.rewards.identity import read_identity
from dfusion_core.store import read_stage
from dfusion_core.testing import tiny_clip

RESULT = Path("results/rounds/r00.json")


def images(round: str) -> pd.DataFrame:
    return read_stage("evaluate", round).table("images")


def result(round: str) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = json.loads(Path(f"results/rounds/{round}.json").read_text())
    return found


def test_every_round_shows_the_same_images(project: Path) -> None:
    """Two of each of two training prompts and one unseen one; no oracle outside the micro-world."""
    table = images("r00")
    assert list(table.columns) == [
        "image",
        "split",
        "prompt_id",
        "prompt",
        "sample",
        "seed",
        "reward",
        "clip",
        "diversity",
    ]
    assert table.split.tolist() == ["train"] * 4 + ["test"] * 2
    assert table.prompt[4] == "the star above the moon"
    assert table.seed[:4].tolist() == [image_seed(1, "evaluate-train", p, n) for p in range(2) for n in range(2)]
    for round in ("init", "r01"):
        measured = ["reward", "clip", "diversity"]
        pd.testing.assert_frame_equal(images(round).drop(columns=measured), table.drop(columns=measured))
    assert read_stage("evaluate", "r00").array("picture").shape == (6, 16, 16, 3)


def test_the_base_gains_nothing_and_rounds_are_compared_in_pairs(project: Path) -> None:
    base = images("init")
    for round in ("init", "r00", "r01"):
        table = images(round)
        assert result(round).keys() == {"reward", "train", "test"}
        for split in ("train", "test"):
            measures = result(round)[split]
            assert measures.keys() == {"reward", "clip", "diversity"} and measures["reward"] == measures["clip"]
            numbers, rows = measures["reward"], table.split == split
            difference = table.reward[rows] - base.reward[rows]
            assert numbers["mean"] == pytest.approx(table.reward[rows].mean(), abs=1e-6)
            assert numbers["gain"] == pytest.approx(difference.mean(), abs=1e-6)
            bounds = [numbers[name] for name in ("low", "high", "gain_low", "gain_high")]
            if split == "train":
                assert bounds[0] <= numbers["mean"] <= bounds[1] and bounds[2] <= numbers["gain"] <= bounds[3]
            else:  # a single prompt says nothing of others
                assert bounds == [None] * 4
    assert all(result("init")["train"]["reward"][f"gain{end}"] == 0 for end in ("", "_low", "_high"))
    assert result("r00")["train"]["reward"]["gain"] != 0


def test_pictures_are_those_of_the_trained_policy(project: Path) -> None:
    """Sampled again with diffusers' own sampler and the adapter that the round trained."""
    table, policy, their = images("r00"), policy_of("r00"), scheduler()
    x, z = trajectory_noises(table.seed.tolist(), policy.latent_shape, T)
    text = policy.embed(table.prompt.tolist())
    for i in range(T):
        with torch.no_grad():
            eps = policy.predict_noise(x, i, text)
        x = their.step(eps, their.timesteps[i], x, eta=1.0, variance_noise=z[:, i]).prev_sample
    found = array("evaluate", "picture", "r00").int()
    assert (found - policy.decode(x).int()).abs().max() <= 1
    assert (found - array("evaluate", "picture", "init").int()).abs().max() > 1


def test_the_grid_shows_every_picture(project: Path) -> None:
    """A line for each prompt with its title, the reward above every picture, pictures four times as large."""
    grid = np.asarray(Image.open("runs/r00/evaluate/grid.png"))
    text, side = TEXT + GAP, 4 * 16
    assert grid.shape[0] == 3 * (2 * text + side + GAP) - GAP
    for image, picture in enumerate(array("evaluate", "picture", "r00").numpy()):
        top, left = 2 * text + image // 2 * (2 * text + side + GAP), image % 2 * (side + GAP)
        np.testing.assert_array_equal(grid[top : top + side : 4, left : left + side : 4], picture)
        assert (grid[top - text : top, left : left + side] < 128).any()  # its reward
    said = Image.open("runs/r00/evaluate/grid.png").info["parameters"]
    assert said.startswith("Steps: 4, Sampler: DDIM, CFG scale: 5.0, Size: 16x16, Model: model, ")


def test_the_same_bytes_again(project: Path, finished: Path) -> None:
    forget("evaluate")
    RESULT.unlink()
    run("evaluate")
    assert content(Path("runs/r00/evaluate")) == content(finished / "runs/r00/evaluate")
    assert RESULT.read_text() == (finished / RESULT).read_text()


def test_the_metrics_file_is_written_again_where_only_that_is_gone(
    project: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RESULT.unlink()
    run("evaluate")
    assert capsys.readouterr().out == "evaluate r00: is there already (6 rows); nothing to do.\n"
    assert RESULT.read_text() == (finished / RESULT).read_text()


def test_fewer_prompts_and_none_unseen(project: Path) -> None:
    """Unless told otherwise, the prompts that are trained on are those that are evaluated."""
    change(prompts={"train_count": 1}, evaluate={"test_count": 0})
    run("evaluate", "init")
    assert images("init").prompt.tolist() == ["a heart holding a balloon"] * 2
    assert result("init").keys() == {"reward", "train"}


def test_the_base_comes_first(project: Path) -> None:
    forget("evaluate", "init")
    with pytest.raises(MissingStage) as caught:
        run("evaluate")
    assert str(caught.value) == (
        "evaluate: its input 'base' is missing: there is no runs/init/evaluate. "
        "Make it with 'dvc repro -s evaluate_base'."
    )
    with pytest.raises(MissingStage, match="its input 'adapter' is missing: there is no runs/r07/train"):
        run("evaluate", "r07")
    assert not Path("results/rounds/r07.json").exists()


def test_two_rewards_are_not_compared(project: Path) -> None:
    """Case 7: other weights behind the same name. The stage publishes nothing and names the stage to run again."""
    tiny_clip(Path("clip"), seed=1)
    before = RESULT.read_text()
    with pytest.raises(StoreError, match="runs/init/evaluate was made from another 'reward'") as caught:
        run("evaluate")
    assert "dvc repro -f -s evaluate_base" in caught.value.hint
    assert RESULT.read_text() == before and read_identity(read_stage("evaluate", "r00")) == read_identity(
        read_stage("evaluate", "init")
    )
    forget("evaluate", "init")
    run("evaluate", "init")
    run("evaluate")  # what the message says mends it
    assert RESULT.read_text() != before
    with pytest.raises(RewardError) as other:  # and r01 is of the old reward still
        run("summary")
    assert "dvc repro -f -s evaluate_base evaluate@r00" in other.value.hint and "evaluate@r01" in other.value.message
