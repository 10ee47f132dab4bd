"""summary: the table people look at, and the files that `dvc metrics` and `dvc plots` read."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from steps import change, run

from dfusion_core.errors import MissingStage


def test_the_table(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("summary")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "Base model against each round, same seeds (95 % intervals)"
    assert [line.split("│")[1].strip() for line in lines if line.startswith("│") and line[2] != " "] == [
        "base", "r00", "r01"]
    numbers = json.loads(Path("results/rounds/r01.json").read_text())["test"]["reward"]
    assert f"{numbers['gain']:+.4f} [{numbers['gain_low']:+.4f}, {numbers['gain_high']:+.4f}]" in lines[-2]
    assert "training prompts" in "".join(lines) and "unseen prompts" in "".join(lines)


def test_metrics_are_those_of_the_last_round(project: Path) -> None:
    run("summary")
    metrics = json.loads(Path("results/metrics.json").read_text())
    assert metrics == {"round": "r01", **json.loads(Path("results/rounds/r01.json").read_text())}
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
        assert row.test_reward_gain_low == numbers["test"]["reward"]["gain_low"]


def test_updates_are_numbered_through(project: Path) -> None:
    Path("results/updates.csv").unlink()
    run("summary")
    table = pd.read_csv("results/updates.csv")
    assert table["update"].tolist() == [1, 2, 3, 4]
    assert table["round"].tolist() == ["r00", "r00", "r01", "r01"]
    parts = [pd.read_csv(f"runs/{round}/train/updates.csv") for round in ("r00", "r01")]
    pd.testing.assert_frame_equal(table.drop(columns=["update", "round"]),
                                  pd.concat(parts, ignore_index=True).drop(columns="update"))


def test_rounds_in_the_order_they_follow_each_other(project: Path) -> None:
    """However params.yaml lists them."""
    change(rounds={"r01": {"prev": "r00"}, "r00": {"prev": "init"}})
    run("summary")
    assert pd.read_csv("results/alignment.csv")["round"].tolist() == ["init", "r00", "r01"]


@pytest.mark.parametrize(("round", "stage"), [("r01", "evaluate@r01"), ("init", "evaluate_base")])
def test_a_result_that_is_missing(project: Path, round: str, stage: str) -> None:
    Path(f"results/rounds/{round}.json").unlink()
    with pytest.raises(MissingStage) as caught:
        run("summary")
    assert str(caught.value) == (
        f"summary: the result of {round} is not there: no results/rounds/{round}.json. "
        f"Make it with 'dvc repro -s {stage}'.")
