"""summary: the table people look at, and the files that `dvc metrics` and `dvc plots` read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from steps import change, run

from dfusion_core.errors import MissingStage, RewardError
from dfusion_core.evaluation.results import QUESTION
from dfusion_core.evaluation.tables import images_seen, updates
from dfusion_core.rewards.identity import require_same_reward


def test_the_tables(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One for each split: base and rounds, each mean above its gain; no line is longer than 120 characters."""
    run("summary")
    lines = capsys.readouterr().out.splitlines()
    titles = [number for number, line in enumerate(lines) if "Base model against each round" in line]
    assert ["training prompts" in lines[titles[0]], "unseen prompts" in lines[titles[1]]] == [True, True]
    names = [line.split("│")[1].strip() for line in lines if line.startswith("│") and line[2] != " "]
    assert names == ["base", "r00", "r01"] * 2
    numbers = json.loads(Path("results/rounds/r01.json").read_text())
    for measure in ("reward", "diversity"):
        found = numbers["train"][measure]
        cell = f"{found['gain']:+.4f} [{found['gain_low']:+.4f}, {found['gain_high']:+.4f}]"
        assert any(cell in line for line in lines[: titles[1]])
        assert any(f"{numbers['test'][measure]['gain']:+.4f} [one prompt: no interval]" in line for line in lines)
    assert "reward (CLIPScore clip)" in lines[titles[0] + 2] and max(map(len, lines)) <= 120
    assert QUESTION in " ".join(" ".join(lines).split())


def test_metrics_are_a_few_numbers_of_the_last_round(project: Path) -> None:
    run("summary")
    metrics = json.loads(Path("results/metrics.json").read_text())
    numbers = json.loads(Path("results/rounds/r01.json").read_text())
    train, test = numbers["train"]["reward"], numbers["test"]["reward"]
    assert metrics == {
        "round": "r01",
        "train": round(train["mean"], 4),
        "train_gain": round(train["gain"], 4),
        "test": round(test["mean"], 4),
        "test_gain": round(test["gain"], 4),
        "diversity": round(numbers["test"]["diversity"]["mean"], 4),
    }
    change(rounds={"r00": {"prev": "init"}})
    run("summary")
    assert json.loads(Path("results/metrics.json").read_text())["round"] == "r00"


def test_alignment_against_images_seen(project: Path) -> None:
    """Figure 5: eight images a round."""
    Path("results/alignment.csv").unlink()
    run("summary")
    curve = pd.read_csv("results/alignment.csv")
    assert curve["round"].tolist() == ["init", "r00", "r01"]
    assert curve.images.tolist() == [0, 8, 16]
    for row in curve.itertuples():
        numbers = json.loads(Path(f"results/rounds/{row.round}.json").read_text())
        assert row.train_reward == numbers["train"]["reward"]["mean"]
        assert row.train_reward_gain_low == numbers["train"]["reward"]["gain_low"]
        assert math.isnan(row.test_reward_gain_low) and numbers["test"]["reward"]["gain_low"] is None


def test_updates_are_numbered_through(project: Path) -> None:
    Path("results/updates.csv").unlink()
    run("summary")
    table = pd.read_csv("results/updates.csv")
    assert table["update"].tolist() == [1, 2, 3, 4]
    assert table["round"].tolist() == ["r00", "r00", "r01", "r01"]
    parts = [pd.read_csv(f"runs/{round}/train/updates.csv") for round in ("r00", "r01")]
    pd.testing.assert_frame_equal(
        table.drop(columns=["update", "round"]), pd.concat(parts, ignore_index=True).drop(columns="update")
    )


def test_rounds_in_the_order_they_follow_each_other(project: Path) -> None:
    """However params.yaml lists them."""
    change(rounds={"r01": {"prev": "r00"}, "r00": {"prev": "init"}})
    run("summary")
    assert pd.read_csv("results/alignment.csv")["round"].tolist() == ["init", "r00", "r01"]


def test_images_are_counted_along_the_chain(project: Path) -> None:
    """Case 32: two rounds from the same one; both saw its images and their own, 8 in a round."""
    Path("results/training/r02.json").write_text(Path("results/training/r01.json").read_text())
    assert images_seen({"r00": "init", "r01": "r00", "r02": "r00"}) == {"init": 0, "r00": 8, "r01": 16, "r02": 16}


@pytest.mark.parametrize(
    ("previous", "numbers"),
    [
        ({"r00": "init", "r01": "r00", "r02": "r00"}, [1, 2, 3, 4, 3, 4]),
        ({"r00": "init", "r01": "init", "r02": "r01"}, [1, 2, 1, 2, 3, 4]),
        ({"r00": "init", "r01": "r00", "r02": "r01"}, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_optimizer_steps_are_counted_along_the_chain(
    project: Path, previous: dict[str, str], numbers: list[int]
) -> None:
    Path("results/training/r02.json").write_text(Path("results/training/r01.json").read_text())
    table = updates(previous)
    assert table["update"].tolist() == numbers
    assert table["round"].tolist() == ["r00", "r00", "r01", "r01", "r02", "r02"]


def test_which_scores_do_not_fit() -> None:
    """The stages that differ from the last one are named, with the command that scores them again."""

    def reward(sha256: str, **plugins: float) -> dict[str, object]:
        terms = {name: {"weight": weight, "identity": "1"} for name, weight in plugins.items()}
        return {"clip": {"model": "local-dir:/some/where/clip", "weight": 1.0, "sha256": sha256}, "plugins": terms}

    same = {"evaluate_base": reward("a" * 64), "evaluate@r00": reward("a" * 64)}
    assert require_same_reward(same) == reward("a" * 64)
    for other in (reward("b" * 64), reward("a" * 64, x=0.5)):
        with pytest.raises(RewardError) as caught:
            require_same_reward(same | {"evaluate@r01": other})
        assert "dvc repro -f -s evaluate_base evaluate@r00" in caught.value.hint
        assert "evaluate@r01" in caught.value.message and "/some/where" not in caught.value.message


@pytest.mark.parametrize(("round", "stage"), [("r01", "evaluate@r01"), ("init", "evaluate_base")])
def test_a_result_that_is_missing(project: Path, round: str, stage: str) -> None:
    Path(f"results/rounds/{round}.json").unlink()
    with pytest.raises(MissingStage) as caught:
        run("summary")
    assert f"results/rounds/{round}.json" in caught.value.message
    assert f"dvc repro -s {stage}" in caught.value.hint
