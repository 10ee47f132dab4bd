"""dfusion judge: a blind comparison over HTTP, and what it adds up to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from dfusion_core.commands.cli import app
from dfusion_core.commands.judge.rates import agreement, rates, votes
from dfusion_core.commands.judge.sides import compared
from dfusion_core.commands.report import write_report
from dfusion_core.errors import StoreError
from dfusion_core.labelling.client import answer_all
from dfusion_core.labelling.serving import served
from dfusion_core.labelling.session import Session
from dfusion_core.labels.answers import Answer, read_answers
from dfusion_core.labels.listed import Listed
from dfusion_core.store import read_stage


def of_round(name: str) -> dict[bytes, str]:
    """Whose a picture is: of the base or of the round."""
    return {
        picture.tobytes(): side
        for side, round in (("A", "init"), ("B", name))
        for picture in read_stage("evaluate", round).array("picture")[:]
    }


def test_two_labellers_judge_and_the_table_is_what_they_said(project: Path) -> None:
    found, whose = compared("base", "r01"), of_round("r01")
    prompts = {name: one.prompt for one in found.questions for name in one.pictures}
    session = Session(Path("judgements.csv"), Listed(found.questions, everybody=True), prompts, "judge")

    def for_b(prompt: str, first: np.ndarray, second: np.ndarray) -> str:
        return "first" if whose[first.tobytes()] == "B" else "second"

    def always_left(prompt: str, first: np.ndarray, second: np.ndarray) -> str:
        return "first"

    with served(session, found.pictures.png) as server:
        assert answer_all(server.address, "ann", for_b) >= len(found.questions)
        assert answer_all(server.address, "bob", always_left) >= len(found.questions)
    done = CliRunner().invoke(app, ["judge", "base", "r01", "--table"])
    assert done.exit_code == 0, done.stderr
    facts = json.loads(Path("results/judge/base-r01.json").read_text())
    rows = {(row["group"], row["name"]): row for row in facts["rates"]}
    n = len(found.questions)
    ann = rows["labeller", "ann"]
    assert (ann["a"], ann["b"], ann["ties"], ann["rate"]) == (0, n, 0, 1.0)
    assert ann["low"] == pytest.approx(beta.ppf(0.025, n, 1))  # Clopper and Pearson, written out
    assert (
        rows["all", "all"]["answers"]
        == 2 * n
        == sum(row["answers"] for (group, _), row in rows.items() if group == "template")
    )
    assert {name for group, name in rows if group == "template"} == {"prompts, train", "prompts, test"}
    assert facts["consistency"].keys() == {"ann", "bob"}
    assert Path("results/judge/base-r01.png").read_bytes()[:4] == b"\x89PNG"
    assert pd.read_csv("results/judge/base-r01.csv").answers[0] == 2 * n
    write_report(Path("report.html"))
    page = Path("report.html").read_text()
    assert "Judged by people" in page and "base against r01" in page
    Path("results/judge/base-r01.json").write_text('{"a": "base", "b": "r01", "rates": [1], "agreement": {}}')
    with pytest.raises(StoreError, match="base-r01.json.*dfusion judge base r01 --table"):
        write_report(Path("report.html"))


def test_a_run_is_compared_with_another_one_and_with_nothing_else(project: Path) -> None:
    assert compared("base", "runs/r00/evaluate").questions == compared("base", "r00").questions
    for names, said in (
        (("r00", "r00"), "equal"),
        (("base", "r07"), "dvc repro -s evaluate@r07"),
        (("base", "nowhere/r00"), "nowhere/r00"),
        (("base", "runs/r00/train"), "evaluation"),
    ):
        done = CliRunner().invoke(app, ["judge", *names, "--table"])
        assert done.exit_code == 1 and said in done.stderr, done.stderr


def answered(labeller: str, said: list[str]) -> list[Answer]:
    return [Answer(f"{labeller}{n}", "", labeller, "p", f"a{n}", f"b{n}", one) for n, one in enumerate(said)]


def test_votes_ties_and_agreement() -> None:
    pairs = pd.DataFrame(
        {
            "split": "train",
            "prompt": "p",
            "seed": range(5),
            "a": [f"a{n}" for n in range(5)],
            "b": [f"b{n}" for n in range(4)] + ["a4"],
        }
    )
    one, two = ["first", "second", "tie", "first"], ["first", "second", "second", "second"]
    again = Answer("x", "", "one", "p", "b0", "a0", "first", True)  # a repetition is no further vote
    found = votes(pairs, [*answered("one", one), again, *answered("two", two)])
    assert len(found) == 8
    row = rates(found, "t").iloc[0]
    assert (row.a, row.b, row.ties, row.rate) == (3, 4, 1, 4 / 7)
    assert agreement(found)["kappa"] == pytest.approx(cohen_kappa_score(one, two))
    alone = votes(pairs, answered("one", ["tie"]))
    assert agreement(alone)["kappa"] is None and rates(alone, "t").iloc[0].rate is None


def test_nobody_has_answered(project: Path) -> None:
    done = CliRunner().invoke(app, ["judge", "base", "r00", "--table"])
    assert done.exit_code == 0 and "no answer" in done.stdout and not Path("results/judge").exists()
    assert read_answers(Path("judgements.csv")) == []
