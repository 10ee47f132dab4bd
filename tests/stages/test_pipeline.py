"""The whole pipeline through real `dvc` commands, on a tiny model: two rounds, and then what DVC is for."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from clones import call, commit

from dfusion_core.store import verify
from dfusion_core.store.paths import ROUND_STAGES
from dfusion_core.testing import tiny_params

ROOT = Path(__file__).parents[2]
SMALL = {
    "sample": {"num_steps": 3, "images_per_prompt": 2},
    "fuse": {"first_t": 2},
    "prompts": {"train_count": 1},
    "evaluate": {"images_per_prompt": 1},
    "train": {"inner_epochs": 1},
}
STAGES = [
    "code",
    "prompts",
    "init",
    "evaluate_base",
    *(f"{stage}@{name}" for name in ("r00", "r01") for stage in ROUND_STAGES),
    "summary",
]

pytestmark = pytest.mark.slow


def ran(output: str) -> list[str]:
    """The stages that `dvc repro` ran."""
    return re.findall(r"Running stage '(.*?)'", output)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has after `git clone`, with tiny parameters, a model and a reward beside it."""
    folder = tmp_path_factory.mktemp("clone")
    left_out = shutil.ignore_patterns("__pycache__", "pretrain")
    for name in ("stages", "dfusion_core"):
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    tiny_params(folder, **SMALL)
    with (folder / ".gitignore").open("a") as file:
        file.write("/.home/\n")
    call(folder, "git", "init", "-q")
    call(folder, "git", "config", "user.name", "t")  # an experiment is a commit
    call(folder, "git", "config", "user.email", "t@localhost")
    call(folder, "dvc", "init", "-q")
    commit(folder, "tiny")
    return folder


@pytest.fixture(scope="module")
def done(clone: Path) -> str:
    """The output of the first `dvc repro`."""
    return call(clone, "dvc", "repro")


def test_every_stage_runs_once_in_order(clone: Path, done: str) -> None:
    order = ran(done)
    assert sorted(order) == sorted(STAGES)
    for round, before in (("r00", None), ("r01", "r00")):
        mine = [order.index(f"{stage}@{round}") for stage in ("sample", "score", "extract", "fuse", "adopt", "train")]
        assert mine == sorted(mine)
        assert before is None or order.index(f"train@{before}") < mine[0]
    assert "Base model against each round" in done and "r01" in done.split("Base model")[1]
    assert verify(clone / "runs") == []


def test_a_second_repro_does_nothing(clone: Path, done: str) -> None:
    again = call(clone, "dvc", "repro")
    assert ran(again) == []
    assert "Data and pipelines are up to date." in again
    assert "up to date" in call(clone, "dvc", "status")


def test_metrics_and_plots(clone: Path, done: str) -> None:
    metrics = json.loads(call(clone, "dvc", "metrics", "show", "--json"))[""]["data"]
    assert metrics[os.path.join("results", "metrics.json")]["data"]["round"] == "r01"
    assert metrics.keys() == {os.path.join("results", "metrics.json")}
    shown = call(clone, "dvc", "plots", "show", "--json")
    plots = json.loads(shown[shown.index("{") :])
    assert len(plots["data"]) == 2 and not plots.get("errors"), shown
    for (drawn,) in plots["data"].values():
        assert len(drawn["content"]["data"]["values"]) >= 4  # two curves of as many points as rounds or more


def test_a_changed_threshold_reruns_from_adoption_on(clone: Path, done: str) -> None:
    commit(clone, "first run")
    tiny_params(clone, **SMALL, adopt={"threshold": 0.0})
    status = json.loads(call(clone, "dvc", "status", "--json"))
    assert [
        stage
        for stage in status
        if any(
            "changed deps" in one and "params.yaml" in one["changed deps"]
            for one in status[stage]
            if isinstance(one, dict)
        )
    ] == ["adopt@r00", "adopt@r01"]
    output = call(clone, "dvc", "repro", "train@r00")
    assert ran(output)[0] == "adopt@r00" and set(ran(output)) <= {"adopt@r00", "train@r00"}
    for stage in ("init", "sample@r00", "score@r00", "extract@r00", "fuse@r00"):
        assert f"Stage '{stage}' didn't change, skipping" in output
    shown = json.loads(call(clone, "dvc", "plots", "diff", "HEAD", "--json"))
    assert {tuple(drawn["revisions"]) for (drawn,) in shown["data"].values()} == {("workspace", "HEAD")}
    tiny_params(clone, **SMALL)
    back = call(clone, "dvc", "repro")
    assert ran(back) == []  # everything is in DVC's run cache


def test_one_stage_alone(clone: Path, done: str) -> None:
    shutil.rmtree(clone / "runs/r01/fuse")
    output = call(clone, "dvc", "repro", "-f", "-s", "fuse@r01")
    assert ran(output) == ["fuse@r01"]
    assert "up to date" in call(clone, "dvc", "status")


def test_an_experiment(clone: Path, done: str) -> None:
    """`dvc exp run -S` changes a parameter for one run and keeps both under a name."""
    output = call(clone, "dvc", "exp", "run", "-S", "adopt.threshold=0.0", "-n", "lenient", "adopt@r00")
    assert ran(output) in (["adopt@r00"], [])
    shown = call(clone, "dvc", "exp", "show", "--json")
    assert "lenient" in shown
    difference = call(clone, "dvc", "params", "diff", "HEAD", "lenient", "--json")
    assert json.loads(difference)["params.yaml"]["adopt.threshold"]["new"] == 0.0


def test_a_round_is_added_from_the_command_line(clone: Path, done: str) -> None:
    output = call(clone, "dvc", "exp", "run", "-S", "+rounds.r02.prev=r01", "sample@r02")
    assert ran(output)[-1] == "sample@r02"
    assert verify(clone / "runs/r02/sample") == []


def test_a_study_runs_its_cells_and_goes_on(clone: Path, done: str) -> None:
    """Two cells as experiments beside the workspace; then a second call that has nothing to do, and the tables."""
    tiny_params(clone, **SMALL)
    (clone / "study.yaml").write_text(
        'common: {"~rounds.r01": null}\nfactors:\n  seed: {"0": {seed: 0}}\n'
        "  method: {naive: {pairs: naive}, dfusion: {pairs: dfusion}}\n"
    )
    commit(clone, "study")
    before = (clone / "params.yaml").read_text()
    python = ("python", "-m", "dfusion_core.commands.cli", "study")
    output = call(clone, *python, "run", "study.yaml", "--out", "found")
    assert "2 to run" in output
    assert (clone / "params.yaml").read_text() == before
    assert "2 done, 0 to run" in call(clone, *python, "run", "study.yaml", "--out", "found")
    shown = call(clone, *python, "table", "study.yaml", "--out", "found")
    assert "2 of 2 cells" in shown
    cells = pd.read_csv(clone / "found/cells.csv")
    assert cells.cell.tolist() == ["0-naive", "0-dfusion"] and cells.target_gain.isna().tolist() == [True, False]
    assert {file.name for file in (clone / "found").iterdir()} >= {"gains.csv", "means.csv", "gains.png"}
    call(clone, *python, "run", "study.yaml", "--out", "direct", "--direct", "--jobs", "2")
    without_seconds = pd.read_csv(clone / "direct/cells.csv").assign(seconds=cells.seconds)
    pd.testing.assert_frame_equal(without_seconds, cells, check_exact=True)
    assert (clone / "direct/prompts.csv").read_text() == (clone / "found/prompts.csv").read_text()
    assert not [path for path in (clone / ".dfusion/studies/study").iterdir() if path.is_dir()]
