"""reward: human: score and adopt stop until people have answered, and go on by their answers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from steps import change, run
from typer.testing import CliRunner

from dfusion_core.commands.cli import app
from dfusion_core.commands.label.sessions import image_session, target_session
from dfusion_core.errors import LabelError
from dfusion_core.labelling.client import answer_all
from dfusion_core.labelling.serving import served
from dfusion_core.labels.answers import read_answers
from dfusion_core.store import read_stage
from dfusion_core.store.paths import labels_file


def brighter(prompt: str, first: np.ndarray, second: np.ndarray) -> str:
    lead = float(first.mean()) - float(second.mean())
    return "tie" if lead == 0 else "first" if lead > 0 else "second"


def label(targets: bool = False) -> None:
    """Give all answers over HTTP, as `dfusion label r00` takes them."""
    session, pictures = (target_session if targets else image_session)("r00")
    with served(session, pictures.png) as server:
        assert answer_all(server.address, "ann", brighter) > 0


def test_score_waits_for_answers_and_adopt_for_those_about_targets(project: Path) -> None:
    change(reward={"human": 1.0, "weight": 0.0}, adopt={"threshold": 1.0})
    with pytest.raises(LabelError) as caught:
        run("score")
    assert "20 of 20" in caught.value.message and "'dfusion label r00'" in caught.value.hint
    label()
    run("score")
    scores, sampled = read_stage("score", "r00").table("scores"), read_stage("sample", "r00")
    assert list(scores.columns) == ["image", "prompt_id", "reward", "clip", "human"]
    assert (scores.reward == scores.human).all()
    brightness = sampled.rows("picture", scores.image).mean(axis=(1, 2, 3))
    for _, group in scores.groupby("prompt_id"):
        assert group.human.mean() == pytest.approx(0, abs=1e-5)
        assert np.corrcoef(group.human, brightness[group.image])[0, 1] > 0.8
    run("extract")
    run("fuse")
    with pytest.raises(LabelError) as caught:
        run("adopt")
    assert "targets of r00" in caught.value.message and "'dfusion label r00 --targets'" in caught.value.hint
    label(targets=True)
    run("adopt")
    targets, fused = read_stage("adopt", "r00").table("targets"), read_stage("fuse", "r00")
    pairs, empty = read_stage("extract", "r00").table("pairs"), read_stage("extract", "r00").table("references")
    as_bright = fused.rows("picture", pairs.pair).mean(axis=(1, 2, 3)) >= sampled.rows(
        "picture", pairs.reference_image
    ).mean(axis=(1, 2, 3))
    assert targets.adopted.tolist() == (as_bright & ~empty.empty_mask[pairs.reference].to_numpy()).tolist()
    reward = json.loads(Path("runs/r00/score/reward.json").read_text())
    assert reward["plugins"]["human"]["weight"] == 1.0
    run("train")


def test_answers_are_in_the_fingerprint(project: Path) -> None:
    change(reward={"human": 0.5, "human_answers": 0.3})
    label()
    run("score")
    before = read_stage("score", "r00").manifest["fingerprint"]
    change(reward={"human": 0.5, "human_answers": 0.5})
    label()
    change(reward={"human": 0.5, "human_answers": 0.3})
    run("score")
    assert read_stage("score", "r00").manifest["fingerprint"] != before


@pytest.mark.slow
def test_images_that_are_made_again_keep_their_answers(project: Path) -> None:
    change(reward={"human": 1.0})
    label()
    change(seed=1, reward={"human": 1.0})
    run("init")
    run("sample")
    with pytest.raises(LabelError, match="20 of 20"):
        run("score")
    change(reward={"human": 1.0})
    run("init")
    run("sample")
    run("score")


@pytest.mark.slow
def test_a_head_scores_targets_and_says_how_well(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(reward={"human": 1.0, "weight": 0.0, "human_targets": "head"})
    label()
    for stage in ("score", "extract", "fuse"):
        run(stage)
    capsys.readouterr()
    run("adopt")
    said = capsys.readouterr().out
    assert "the head on CLIP's embeddings agrees with" in said and "% of " in said
    assert not labels_file("r00", targets=True).exists()
    assert read_stage("adopt", "r00").table("targets").target_reward.nunique() > 1


def test_evaluation_is_without_people(project: Path) -> None:
    change(reward={"human": 1.0, "weight": 0.0})
    run("evaluate", "init")
    images = read_stage("evaluate", "init").table("images")
    assert "human" not in images and (images.reward == images["clip"]).all()


@pytest.mark.parametrize("kind", ["pairs.csv", "pickapic.csv", "pairs.jsonl", "pickapic.jsonl"])
def test_export_and_import(project: Path, kind: str) -> None:
    label()
    before, out = read_answers(labels_file("r00")), Path("out") / kind
    export = ["label", "r00", "--export", str(out), "--columns", kind.split(".")[0]]
    assert CliRunner().invoke(app, export).exit_code == 0
    if kind == "pickapic.csv":
        row = next(csv.DictReader(out.open()))
        assert Path("out", row["jpg_0"]).is_file() and {row["label_0"], row["label_1"]} <= {"0", "1", "0.5"}
    labels_file("r00").unlink()
    for taken in (len(before), 0):
        done = CliRunner().invoke(app, ["label", "r00", "--import", str(out)])
        assert done.exit_code == 0 and f" {taken} answers taken" in done.stdout
    again = read_answers(labels_file("r00"))
    assert [(one.first, one.second, one.answer) for one in again] == [
        (one.first, one.second, one.answer) for one in before
    ]


def test_answers_of_argilla(project: Path) -> None:
    label()
    before = read_answers(labels_file("r00"))
    CliRunner().invoke(app, ["label", "r00", "--export", "out.jsonl"])
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    answers = [(row.pop("answer"), row.pop("labeller")) for row in rows]
    records = [
        row | {"better.responses": [one], "better.responses.users": [who], "better.responses.status": ["submitted"]}
        for row, (one, who) in zip(rows, answers, strict=True)
    ]
    Path("argilla.json").write_text(json.dumps(records))
    labels_file("r00").unlink()
    done = CliRunner().invoke(app, ["label", "r00", "--import", "argilla.json"])
    assert done.exit_code == 0 and f" {len(before)} answers taken" in done.stdout
    assert [one.answer for one in read_answers(labels_file("r00"))] == [one.answer for one in before]


def test_an_import_that_is_of_no_use_says_why(project: Path) -> None:
    label()
    CliRunner().invoke(app, ["label", "r00", "--export", "out.csv"])
    for text, said in {"image_0,image_1,answer\na.png,b.png,first\n": "a.png", "x\n1\n": "row 1"}.items():
        Path("bad.csv").write_text(text)
        done = CliRunner().invoke(app, ["label", "r00", "--import", "bad.csv"])
        assert done.exit_code == 1 and said in done.stderr
    done = CliRunner().invoke(app, ["label", "r01", "--import", "out.csv"])
    assert done.exit_code == 1 and "pairs: inversion" in done.stderr
