"""What DVC has noted of an output that was made of something else: `verify` says it, and no stage goes on from it.

It comes about where params.yaml or an input is edited between the end of a stage and DVC's note of it, and DVC's run
cache keeps it. `dvc commit -f` makes the very same note at will.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from clones import call, environment, locked
from steps import change, forget, run

from dfusion_core.errors import StoreError
from dfusion_core.params.strict_yaml import read_yaml
from dfusion_core.store.dvc_lock import md5_of
from dfusion_core.store.verify import verify

Entry = dict[str, Any]


def note(stage: str, deps: list[str], **edited: Any) -> Entry:
    """dvc.lock as DVC writes it for a stage of r00 that is there; `edited` are sections of params.yaml."""
    output = f"runs/r00/{stage}"
    entry = {
        "cmd": f"python -m stages {stage}",
        "params": {"params.yaml": edited},
        "deps": [{"path": dep, "hash": "md5", "md5": md5_of(Path(dep))} for dep in deps],
        "outs": [{"path": output, "hash": "md5", "md5": md5_of(Path(output))}],
    }
    write(stage, entry)
    return entry


def write(stage: str, entry: Any) -> None:
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {f"{stage}@r00": entry}}))


def said() -> str:
    return "\n".join(map(str, verify("runs")))


@pytest.fixture
def params(project: Path) -> Entry:
    return dict(read_yaml(Path("params.yaml")))


@pytest.mark.parametrize(
    ("stage", "section", "key", "value"),
    [
        ("adopt", "adopt", "threshold", 0.1),
        ("adopt", "reward", "batch_size", 3),
        ("sample", "sample", "eta", 0.5),
        ("train", "train", "learning_rate", 1.0),
        ("train", "train", "learning_rate", -1),
        ("evaluate", "seed", "", 7),
    ],
)
def test_parameters(params: Entry, stage: str, section: str, key: str, value: Any) -> None:
    """A default that is not in the file and a value that no stage accepts are compared as well."""
    used = {section: params[section]} if section != "seed" or stage == "sample" else {"evaluate": params["evaluate"]}
    note(stage, [], **used)
    assert said() == ""
    name = next(iter(used))
    note(stage, [], **{name: {**used[name], key or "images_per_prompt": value}})
    assert f"{name}.{key or 'images_per_prompt'}" in said() and f"says {value}" in said()
    assert f"'dvc repro -f -s {stage}@r00'" in said()


@pytest.mark.parametrize(
    ("stage", "dep"),
    [
        ("extract", "prompts.yaml"),
        ("sample", "results/prompts.json"),
        ("train", "runs/r00/adopt"),
        ("sample", "runs/init/train"),
        ("evaluate", "runs/init/evaluate"),
    ],
)
def test_inputs(project: Path, stage: str, dep: str) -> None:
    run("prompts")
    note(stage, [dep])
    assert said() == ""
    if dep == "prompts.yaml":
        Path(dep).write_text(f"# another\n{Path(dep).read_text()}")
    elif dep == "results/prompts.json":
        Path(dep).write_text(Path(dep).read_text().replace("blue", "red"))
    else:
        other = dep.replace("r00", "r01").replace("init/evaluate", "r01/evaluate").replace("init", "r01")
        shutil.rmtree(dep)
        shutil.copytree(other, dep)
    assert f"another {dep}" not in said()  # DVC sees that: 'dvc status'
    note(stage, [dep])
    assert f"another {dep}" in said()


def test_a_folder_that_is_not_the_one_noted_is_dvcs_business(params: Entry) -> None:
    entry = note("adopt", [], adopt={"threshold": 0.1})
    write("adopt", entry | {"outs": [{"path": "runs/r00/adopt", "md5": "0.dir"}]})
    assert said() == ""


BROKEN: dict[str, Callable[[Entry], Any]] = {
    "no mapping": lambda entry: [entry],
    "text": lambda entry: "x",
    "nothing": lambda entry: None,
    "deps of text": lambda entry: entry | {"deps": "x"},
    "a dep without a path": lambda entry: entry | {"deps": [{"md5": "x"}, 3, None, {"path": 3}, {"path": ""}]},
    "outs without a path": lambda entry: entry | {"outs": [{}, [], {"path": ["x"]}]},
    "outs are none": lambda entry: entry | {"outs": None, "deps": None, "params": None},
    "parameters are a list": lambda entry: entry | {"params": {"params.yaml": ["adopt"]}},
    "a section is a number": lambda entry: entry | {"params": {"params.yaml": {"adopt": 3}}},
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_lock_file_that_a_merge_has_broken(project: Path, case: str) -> None:
    write("adopt", BROKEN[case](note("adopt", ["runs/r00/sample", "prompts.yaml"])))
    assert len(verify("runs")) <= 1  # and no traceback
    Path("dvc.lock").write_text("<<<<<<< ours\nstages:\n  adopt@r00:\n    deps: [\n=======\n")
    assert said() == ""


@pytest.mark.parametrize("damage", [b"{", b"", b"[]", b"\xff"])
def test_digests_of_the_code_that_dvc_has_noted_broken(project: Path, damage: bytes) -> None:
    run("code")
    note("adopt", ["results/code/adopt.json"])
    assert said() == ""
    Path("results/code/adopt.json").write_bytes(damage)
    note("adopt", ["results/code/adopt.json"])
    assert "results/code/adopt.json" in said()


def test_a_stage_of_dvc_refuses_other_prompts_than_dvc_compared(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("code")
    monkeypatch.setenv("DVC_STAGE", "sample@r00")
    forget("sample")
    with pytest.raises(StoreError, match="results/prompts.json") as caught:  # not written yet
        run("sample")
    assert "'dvc repro -s prompts'" in str(caught.value)
    run("prompts")
    Path("prompts.yaml").write_text(Path("prompts.yaml").read_text().replace("blue", "red"))
    with pytest.raises(StoreError, match="results/prompts.json"):
        run("sample")
    run("prompts")
    run("sample")


def test_a_stage_of_dvc_does_not_go_on_from_it(params: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    run("code")
    monkeypatch.setenv("DVC_STAGE", "train@r00")
    note("adopt", [], adopt={"threshold": 0.1})
    forget("train")
    with pytest.raises(StoreError, match="adopt.threshold") as caught:
        run("train")
    assert "'dvc repro -f -s adopt@r00'" in str(caught.value) and not Path("runs/r00/train").exists()
    note("adopt", [], adopt=params["adopt"])
    change()
    run("train")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "old", "new", "named"),
    [
        ("adopt@r00", "threshold: 0.2", "threshold: 0.1", "adopt.threshold"),
        ("sample@r00", "num_steps: 3", "num_steps: 3\n  eta: 0.5", "sample.eta"),
    ],
)
def test_dvc_itself(whole: Path, tmp_path: Path, stage: str, old: str, new: str, named: str) -> None:
    """Noted, then brought back by the run cache in another state of the project: seen both times, and mended."""
    folder = Path(shutil.copytree(whole, tmp_path / "clone", symlinks=True))
    params = folder / "params.yaml"
    before, after = params.read_text(), params.read_text().replace(old, new)
    assert before != after
    program = ("python", "-m", "dfusion_core.commands.cli", "verify", "runs")
    output = f"runs/r00/{stage.partition('@')[0]}"

    def problems() -> list[str]:
        done = subprocess.run(program, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr and done.returncode in (0, 1)
        return [line for line in done.stdout.splitlines() if line.startswith(output)]

    assert problems() == []
    params.write_text(after)
    call(folder, "dvc", "commit", "-q", "-f", stage)
    noted = {one["path"]: one["md5"] for one in locked(folder)[stage]["outs"]}
    assert noted[output] == md5_of(folder / output)
    assert len(problems()) == 1 and named in problems()[0]
    call(folder, "git", "checkout", "-q", "--", ".")
    call(folder, "dvc", "checkout", "-q")
    assert problems() == []
    params.write_text(after)
    assert "cached" in call(folder, "dvc", "repro", "-s", stage)
    assert len(problems()) == 1 and named in problems()[0]
    assert f"'dvc repro -f -s {stage}'" in problems()[0]
    call(folder, "dvc", "repro", "-q", "-f", "-s", stage)
    assert problems() == []
