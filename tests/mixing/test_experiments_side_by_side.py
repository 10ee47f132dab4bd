"""Experiments that run at the same time, and going back to an old one: each has its own numbers and no others."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from clones import SMALL, call, commit, environment, repository
from steps import content, run

from dfusion_core.testing import tiny_params

pytestmark = pytest.mark.slow
TARGET = "evaluate_base"  # it writes runs/init/evaluate and results/rounds/init.json
Found = dict[str, str]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny project in which init has run."""
    folder = repository(tmp_path_factory.mktemp("side") / "clone")
    call(folder, "dvc", "repro", "init")
    commit(folder, "init")
    return folder


@pytest.fixture
def alone(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Found]:
    """What a setting gives where nothing runs beside it: hashes of all that is published."""

    def outputs(eta: float) -> Found:
        copy = tmp_path / f"eta {eta}"
        for name in ("model", "clip"):
            shutil.copytree(clone / name, copy / name)
        shutil.copytree(clone / "runs/init/train", copy / "runs/init/train")
        shutil.copy(clone / "prompts.yaml", copy)
        tiny_params(copy, **SMALL | {"sample": {**SMALL["sample"], "eta": eta}})
        monkeypatch.chdir(copy)
        run("evaluate", "init")
        return published(copy)

    return outputs


def published(folder: Path) -> Found:
    """What runs made; the digests of code and prompts, which only DVC notes, are left out."""
    return {
        f"{area}/{name}": sha
        for area in ("runs", "results")
        for name, sha in content(folder / area).items()
        if not name.startswith("code/") and name != "prompts.json"
    }


def applied(clone: Path, experiment: str) -> Found:
    """All that is published once an experiment is brought into the workspace."""
    subprocess.run(
        ("dvc", "exp", "apply", experiment), cwd=clone, env=environment(clone), check=False, capture_output=True
    )  # complains of the stages that nothing has run yet
    call(clone, "dvc", "checkout", "init", TARGET)
    return published(clone)


def wait_for_queue(clone: Path) -> str:
    """What `dvc queue status` says when all is done; the experiments must have succeeded."""
    until = time.monotonic() + 300
    while "Queued" in (status := call(clone, "dvc", "queue", "status")) or "Running" in status:
        assert time.monotonic() < until, status
        time.sleep(1)
    call(clone, "dvc", "queue", "stop")
    assert "Success" in status and "Failed" not in status, status
    return status


def test_two_temporary_experiments_at_once(clone: Path, alone: Callable[[float], Found]) -> None:
    etas = {"low": 0.5, "high": 0.75}
    started = [
        subprocess.Popen(
            ("dvc", "exp", "run", "--temp", "-S", f"+sample.eta={eta}", "-n", name, TARGET),
            cwd=clone,
            env=environment(clone),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, eta in etas.items()
    ]
    said = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    found = {name: applied(clone, name) for name in etas}
    assert found == {name: alone(eta) for name, eta in etas.items()}
    assert found["low"] != found["high"]
    assert not list((clone / ".dfusion").rglob("*.safetensors"))


def test_a_queue_with_two_workers(clone: Path, alone: Callable[[float], Found]) -> None:
    call(clone, "git", "checkout", "-q", "--", ".")
    etas = {"first": 0.6, "second": 0.9}
    for name, eta in etas.items():
        call(clone, "dvc", "exp", "run", "--queue", "-S", f"+sample.eta={eta}", "-n", name, TARGET)
    subprocess.run(
        ("dvc", "queue", "start", "-j", "2"),
        cwd=clone,
        env=environment(clone),
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # its workers would keep a pipe open
    assert wait_for_queue(clone).count("Success") == 2
    assert {name: applied(clone, name) for name in etas} == {name: alone(eta) for name, eta in etas.items()}


@pytest.mark.parametrize("queued", [False, True])
def test_a_model_and_a_reward_that_git_ignores(clone: Path, tmp_path: Path, queued: bool) -> None:
    """Case 30: experiments in a folder of their own find them in the project."""
    call(tmp_path, "git", "clone", "-q", str(clone), "ignoring")
    folder = tmp_path / "ignoring"
    with (folder / ".gitignore").open("a") as file:
        file.write("/model/\n/clip/\n")
    call(folder, "git", "rm", "-rq", "--cached", "model", "clip")
    commit(folder, "large files are left out")
    assert (folder / "model").is_dir() and call(folder, "git", "ls-files", "model") == ""
    if queued:
        call(folder, "dvc", "exp", "run", "--queue", "-S", "seed=1", "-n", "one", "init")
        subprocess.run(
            ("dvc", "queue", "start"),
            cwd=folder,
            env=environment(folder),
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for_queue(folder)
    else:
        call(folder, "dvc", "exp", "run", "--temp", "-S", "seed=1", "-n", "one", "init")
    names = call(folder, "git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
    one = next(name for name in names if name.endswith("/one"))
    assert "seed: 1" in call(folder, "git", "show", f"{one}:params.yaml")
    assert "runs/init/train" in call(folder, "git", "show", f"{one}:dvc.lock")


def test_back_to_an_old_commit(clone: Path, alone: Callable[[float], Found]) -> None:
    """git checkout and dvc checkout bring back exactly what was there, and nothing is left to run."""
    call(clone, "git", "checkout", "-q", "--", ".")
    commits = {}
    for eta in (0.5, 0.75):  # two that DVC has in its cache
        tiny_params(clone, **SMALL | {"sample": {**SMALL["sample"], "eta": eta}})
        call(clone, "dvc", "repro", TARGET)
        commit(clone, f"eta {eta}")
        commits[eta] = call(clone, "git", "rev-parse", "HEAD").strip()
    for eta in (0.5, 0.75, 0.5):
        call(clone, "git", "checkout", "-q", commits[eta])
        call(clone, "dvc", "checkout", TARGET)
        assert published(clone) == alone(eta)
        assert json.loads(call(clone, "dvc", "status", "--json", TARGET)) == {}
        shutil.rmtree(Path.cwd())  # of the run alone
