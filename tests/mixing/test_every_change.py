"""Whatever changes while a stage is interrupted: no row of the old run survives, and the message says what changed.

Every parameter of params.yaml, from the models that check it, with every stage that declares it; and every input.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dfusion_core.errors import ParamsError
from dfusion_core.params import explain, load_params
from dfusion_core.params.selection import NEVER_IN_FINGERPRINT
from dfusion_core.store import StageRun, open_stage
from dfusion_core.store.provenance import environment

ROOT = Path(__file__).parents[2]
STAGES = ("init", "sample", "score", "extract", "kv", "fuse", "adopt", "train", "evaluate")
ROWS, BATCH = 6, 2
OTHER_TEXT = {"model.device": "cpu", "model.id": "another-model"}  # where not any text will do


def declared(stage: str) -> tuple[str, ...]:
    """The sections that a stage asks for; of extract.py the second call is kv's."""
    tree = ast.parse((ROOT / "stages" / f"{'extract' if stage == 'kv' else stage}.py").read_text())
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "load_params"
    ]
    call = sorted(calls, key=lambda node: node.lineno)[1 if stage == "kv" else 0]
    return tuple(ast.literal_eval(argument) for argument in call.args)


KEYS = {row.key: row.default for row in explain() if row.key.split(".")[0] not in NEVER_IN_FINGERPRINT}
DECLARED = [(stage, key) for stage in STAGES for key in KEYS if key.split(".")[0] in declared(stage)]
OTHERS = [(stage, key) for stage in STAGES for key in KEYS if key.split(".")[0] not in declared(stage)]


def candidates(key: str, value: Any) -> Iterator[Any]:
    """Values other than this one; the first that params.yaml may have is taken."""
    if key in OTHER_TEXT:
        yield OTHER_TEXT[key]
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value - 1, value * 2, value * 0.5)
    elif isinstance(value, list):
        yield from (value[:-1], [0.5, 0.5])
    elif isinstance(value, dict):
        yield {"mine:Reward": 0.5}
    yield from (
        3,
        "or",
        "relative",
        "naive",
        "ddpo",
        "fp16",
        "up_2",
        "log_ratio",
        "drop",
        "top_quarter_twice",
        "none",
        "equal",
        "head",
        "refuse",
        "adamw_8bit",
        "another",
        True,
    )


def params_with(key: str, value: Any, sections: tuple[str, ...]) -> Any:
    """params.yaml with one key set, read as the stage reads it."""
    data: dict[str, Any] = {"rounds": {"r00": {"prev": "init"}}}
    *above, last = key.split(".")
    inner = data
    for name in above:
        inner = inner.setdefault(name, {})
    inner[last] = value
    Path("params.yaml").write_text(yaml.safe_dump(data))
    return load_params(*sections)


def changed(key: str, sections: tuple[str, ...]) -> tuple[Any, Any]:
    """Parameters in which this key alone has another value, and that value."""
    for value in candidates(key, KEYS[key]):
        try:
            if value != KEYS[key] or type(value) is not type(KEYS[key]):
                return params_with(key, value, sections), value
        except ParamsError:
            continue
    raise AssertionError(f"no other value found for {key}")


def interrupted(run: StageRun) -> None:
    """Write the first part, and stop."""
    with pytest.raises(KeyboardInterrupt), run:
        for rows in run.unfinished(ROWS, BATCH):
            run.write(rows, _made_by=np.zeros(len(rows)))
            raise KeyboardInterrupt


def finish(run: StageRun) -> list[float]:
    """Make what is not there yet; who made each row: 0 the interrupted run, 1 this one."""
    with run:
        for rows in run.unfinished(ROWS, BATCH):
            run.write(rows, _made_by=np.ones(len(rows)))
        return [float(value) for value in run.collect("_made_by")]


@pytest.mark.few(6)
@pytest.mark.parametrize(("stage", "key"), DECLARED)
def test_a_parameter_that_the_stage_declares(
    workspace: Path, capsys: pytest.CaptureFixture[str], stage: str, key: str
) -> None:
    sections = declared(stage)
    before = params_with(key, KEYS[key], sections)
    now, value = changed(key, sections)
    interrupted(open_stage(stage, round="r00", params=before))
    capsys.readouterr()
    assert finish(open_stage(stage, round="r00", params=now)) == [1.0] * ROWS
    said = capsys.readouterr().out
    assert f"{stage} r00: starts from the beginning, because {key}" in said
    if not isinstance(value, dict):
        old = "nothing" if KEYS[key] is None else json.dumps(KEYS[key])
        assert f"{key} changed from {old} to {json.dumps(value)}." in said


@pytest.mark.slow
def test_a_parameter_that_the_stage_does_not_declare(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One interrupted run of each stage for all of them: it continues with the rows that it had."""
    for number, stage in enumerate(STAGES):
        sections, round = declared(stage), f"r{number:02}"
        before = {
            key: open_stage(stage, round=round, params=params_with(key, KEYS[key], sections)).fingerprint
            for name, key in OTHERS
            if name == stage
        }
        for key, fingerprint in before.items():
            assert open_stage(stage, round=round, params=changed(key, sections)[0]).fingerprint == fingerprint, key
        interrupted(open_stage(stage, round=round, params=params_with(key, KEYS[key], sections)))
        capsys.readouterr()
        now = changed(key, sections)[0]
        assert finish(open_stage(stage, round=round, params=now)) == [0.0] * BATCH + [1.0] * (ROWS - BATCH)
        assert capsys.readouterr().out.startswith(f"{stage} {round}: continues; {BATCH} of {ROWS} rows")


def test_launcher_and_other_rounds_change_nothing(workspace: Path) -> None:
    """They say how a stage is started, and which others there are."""
    first = open_stage("sample", round="r00", params=params_with("seed", 0, declared("sample")))
    Path("params.yaml").write_text(
        yaml.safe_dump(
            {"rounds": {"r00": {"prev": "init"}, "r01": {"prev": "r00"}}, "launcher": {"sample": "torchrun"}}
        )
    )
    again = open_stage("sample", round="r00", params=load_params(*declared("sample")))
    assert again.fingerprint == first.fingerprint


@pytest.mark.parametrize("kind", ["file", "folder", "output"])
def test_an_input(workspace: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """A file, a file in a folder, a row of another stage's output."""
    path = {"file": Path("note.txt"), "folder": Path("weights"), "output": Path("runs/r00/score")}[kind]

    def write(content: str) -> None:
        if kind == "output":
            with open_stage("score", round="r00", params={"reward": content}) as run:
                run.path("scores.csv").write_text(content)
        else:
            file = path if kind == "file" else path / "deep/in.bin"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)

    def stage() -> StageRun:
        return open_stage("extract", round="r00", inputs={"it": path})

    write("one")
    interrupted(stage())
    write("two")
    capsys.readouterr()
    assert finish(stage()) == [1.0] * ROWS
    assert "extract r00: starts from the beginning, because the input 'it' changed." in capsys.readouterr().out


def test_a_library(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of two versions do not mix; what is published stays as it is, and says which version made it."""
    now = environment()
    interrupted(open_stage("sample", round="r00"))
    monkeypatch.setattr("dfusion_core.store.run.environment", lambda: {**now, "torch": "99.0"})
    assert finish(open_stage("sample", round="r00")) == [1.0] * ROWS
    expected = f'sample r00: starts from the beginning, because torch changed from "{now["torch"]}" to "99.0".\n'
    assert capsys.readouterr().out == expected
    monkeypatch.undo()
    monkeypatch.chdir(workspace)
    with open_stage("sample", round="r00") as run:
        assert run.done
