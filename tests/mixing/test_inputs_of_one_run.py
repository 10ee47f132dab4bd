"""Sound outputs in the wrong place, or of different runs: a stage that would read them names them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from steps import change, forget, run

from dfusion_core.errors import StoreError
from dfusion_core.store import verify


def put(of: str, here: str) -> None:
    """A copy of one output in the place of another."""
    shutil.rmtree(Path("runs", here))
    shutil.copytree(Path("runs", of), Path("runs", here))


@pytest.mark.parametrize(
    ("of", "here", "reader"),
    [
        ("r01/score", "r00/score", "extract"),
        ("r01/sample", "r00/sample", "score"),
        ("r01/kv", "r00/kv", "fuse"),
        ("r01/train", "r00/train", "evaluate"),
        ("r00/extract", "r00/kv", "fuse"),
        ("r00/evaluate", "init/evaluate", "evaluate"),
        ("r00/train", "init/train", "sample"),
    ],
)
def test_an_output_of_another_round_or_stage(project: Path, of: str, here: str, reader: str) -> None:
    put(of, here)
    with pytest.raises(StoreError, match=f"runs/{here}/manifest.json is that of .*'rm -r runs/{here}'"):
        run(reader)
    assert {(str(one.folder), one.file) for one in verify("runs")} == {(f"runs/{here}", "manifest.json")}


@pytest.fixture
def other(project: Path) -> Path:
    """The outputs of r00 of a run with another seed; the first run's lie in `first`."""
    Path("runs").rename("first")
    change(seed=1)
    run("init", "init")
    run("evaluate", "init")
    for stage in ("sample", "score", "extract", "fuse", "adopt"):
        run(stage)
    Path("runs").rename("second")
    shutil.copytree("first", "runs")
    change()
    return Path("second")


@pytest.mark.parametrize(
    ("from_second", "reader", "named"),
    [
        (["score"], "extract", "score"),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in [
                (["extract", "kv"], "fuse", "extract"),
                (["fuse"], "adopt", "fuse"),
                (["adopt"], "train", "adopt"),
                (["sample", "score"], "extract", "sample"),
            ]
        ),
    ],
)
def test_outputs_of_two_runs(other: Path, from_second: list[str], reader: str, named: str) -> None:
    """Made with other parameters, or from another input than the one that is there."""
    for stage in from_second:
        put(f"../{other}/r00/{stage}", f"r00/{stage}")
    forget(reader)
    with pytest.raises(StoreError) as caught:
        run(reader)
    assert f"runs/r00/{named} was made " in caught.value.message
    assert f"'dvc repro -f -s {named}@r00'" in caught.value.hint


@pytest.mark.parametrize(
    ("reader", "changes", "key", "input"),
    [
        ("fuse", {"sample": {"num_steps": 5}}, "sample.num_steps", "sample"),
        ("train", {"sample": {"eta": 0.5}}, "sample.eta", "sample"),
        ("extract", {"sample": {"guidance_scale": 2.0}}, "sample.guidance_scale", "sample"),
        ("adopt", {"reward": {"weight": 2.0}}, "reward.weight", "score"),
        ("fuse", {"fuse": {"last_t": 2}}, "fuse.last_t", "extract"),
        ("evaluate", {"evaluate": {"seed": 5}}, "evaluate.seed", "evaluate"),
        ("sample", {"model": {"dtype": "bf16"}}, "model.dtype", "train"),
        ("train", {"seed": 4}, "seed", "train"),
    ],
)
def test_parameters_that_an_input_was_not_made_with(
    project: Path, reader: str, changes: dict[str, Any], key: str, input: str
) -> None:
    forget(reader)
    change(**changes)
    with pytest.raises(StoreError) as caught:
        run(reader)
    assert key in caught.value.message and f"/{input} was made with" in caught.value.message
    assert "dvc repro -f -s" in caught.value.hint and f"put {key} back" in caught.value.hint


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "changes", [{"sample": {"batch_size": 1}}, {"fuse": {"batch_size": 1}}, {"model": {"device": "cpu"}}]
)
def test_what_changes_rounding_only_may_differ(project: Path, changes: dict[str, Any]) -> None:
    """A node with less memory goes on with what another made."""
    forget("fuse")
    change(**changes)
    run("fuse")


@pytest.mark.slow
def test_the_mending_command_mends(project: Path) -> None:
    """The one without DVC."""
    change(reward={"weight": 2.0})
    forget("adopt")
    with pytest.raises(StoreError, match="python -m stages score r00"):
        run("adopt")
    run("score")
    with pytest.raises(StoreError, match="runs/r00/extract was made from another 'score'.*stages extract r00"):
        run("adopt")
    run("extract")
    run("fuse")
    run("adopt")
