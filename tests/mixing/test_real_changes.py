"""Real stages, interrupted in the middle, and something changed: what comes out is what a fresh start gives."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from steps import change, content, forget, run

from dfusion_core.errors import ModelError, StoreError
from dfusion_core.store.manifest import MANIFEST
from dfusion_core.store.parts import Parts
from dfusion_core.store.paths import PROMPTS_RESULT
from dfusion_core.store.provenance import hash_file
from dfusion_core.store.run import StageRun

ROOT = Path(__file__).parents[2]
PLUGIN = """
import torch
class Mine:
    def __init__(self, device): pass
    def __call__(self, pictures, prompts): return pictures.float().mean(dim=(1, 2, 3)) / 255 * SCALE
    def identity(self): return "mine"
"""


def interrupted(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """Run the stage until its first part, or the state of its first update, is stored."""
    forget(stage)
    owner, method = (StageRun, "save_state") if stage == "train" else (Parts, "write")
    real: Callable[..., None] = getattr(owner, method)

    def once(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, method, once)
        run(stage)


def goes_on_as_new(stage: str, because: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The next run says why it begins anew, and makes what a run without any past makes."""
    capsys.readouterr()
    run(stage)
    assert f"{stage} r00: starts from the beginning, because {because}" in capsys.readouterr().out
    found = content(Path("runs/r00", stage))
    forget(stage)
    assert not list(Path(".dfusion/r00", stage).rglob("*.safetensors"))
    run(stage)
    assert content(Path("runs/r00", stage)) == found


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("stage", "changes", "because"),
    [
        ("sample", {"sample": {"eta": 0.5}}, "sample.eta changed from 1.0 to 0.5."),
        (
            "sample",
            {"prompts": {"train_count": 1}},
            "prompts.train_count changed from nothing to 1; the input 'texts' changed.",
        ),
        ("fuse", {"pairs": "inversion"}, 'pairs changed from "dfusion" to "inversion".'),
        ("train", {"train": {"learning_rate": 1e-4}}, "train.learning_rate changed from 0.001 to 0.0001."),
        ("evaluate", {"evaluate": {"seed": 5}}, "evaluate.seed changed from 1 to 5; the input 'base' changed."),
    ],
)
def test_parameters(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    changes: dict[str, Any],
    because: str,
) -> None:
    interrupted(monkeypatch, stage)
    change(**changes)
    if stage == "evaluate":
        run("evaluate", "init")  # only images of the same seeds are compared
    goes_on_as_new(stage, because, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sample", "evaluate"])
def test_the_prompt_file(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    """Its name is the same, its content another."""
    interrupted(monkeypatch, stage)
    text = Path("prompts.yaml").read_text()
    Path("prompts.yaml").write_text(text.replace("a blue and dotted square", "a red and dotted square"))
    if stage == "evaluate":
        run("evaluate", "init")
    base = "the input 'base' changed; " * (stage == "evaluate")
    goes_on_as_new(stage, f"{base}the input 'texts' changed.", capsys)


def test_another_threshold_reruns_nothing_before_extract(project: Path) -> None:
    def made() -> dict[str, str]:
        return {stage: hash_file(Path("runs/r00", stage, MANIFEST)) for stage in ("sample", "evaluate", "extract")}

    run("prompts")
    noted, before = PROMPTS_RESULT.read_bytes(), made()
    text = Path("prompts.yaml").read_text()
    assert "0.05" in text
    Path("prompts.yaml").write_text(text.replace("0.05", "0.07"))
    for stage in ("prompts", "sample", "evaluate", "extract"):
        run(stage)
    assert PROMPTS_RESULT.read_bytes() == noted
    assert [stage for stage, one in made().items() if one != before[stage]] == ["extract"]


@pytest.mark.slow
def test_the_adapter_of_the_round_before(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(monkeypatch, "sample")
    change(lora={"rank": 3})
    run("init", "init")
    goes_on_as_new("sample", "the input 'adapter' changed.", capsys)


@pytest.mark.slow
def test_the_model(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """First the stage refuses, because init pinned the model; once init has pinned the new one, it begins anew."""
    from dfusion_core.testing import tiny_model

    interrupted(monkeypatch, "sample")
    shutil.rmtree("model")
    tiny_model(Path("model"), seed=1)
    with pytest.raises(ModelError, match="is not the model that this run began with: .*unet/.*dvc repro -f -s init"):
        run("sample")
    assert len(list(Path(".dfusion/r00/sample").rglob("parts/*"))) == 1
    capsys.readouterr()
    run("init", "init")
    assert "init init: is made again, because the input 'model' changed." in capsys.readouterr().out
    goes_on_as_new("sample", "the input 'adapter' changed.", capsys)


def test_the_reward_model(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """score begins anew; adopt refuses to compare scores of two models."""
    from dfusion_core.testing import tiny_clip

    interrupted(monkeypatch, "score")
    shutil.rmtree("clip")
    tiny_clip(Path("clip"), seed=1)
    goes_on_as_new("score", "the input 'reward' changed.", capsys)
    shutil.rmtree("clip")
    tiny_clip(Path("clip"), seed=2)
    with pytest.raises(StoreError, match="runs/r00/score was made from another 'reward'.*'dvc repro -f -s score@r00'"):
        run("adopt")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["score", "evaluate"])
def test_the_code_of_a_reward_of_ones_own(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    """DVC does not know the module; the fingerprint does."""
    name = f"mine_for_{stage}"

    def write(scale: float) -> None:
        Path(f"{name}.py").write_text(PLUGIN.replace("SCALE", str(scale)))
        sys.modules.pop(name, None)

    monkeypatch.syspath_prepend(str(project))
    write(0.5)
    change(reward={"plugins": {f"{name}:Mine": 1.0}})
    if stage == "evaluate":
        run("score")
        run("evaluate", "init")
    interrupted(monkeypatch, stage)
    write(0.25)
    if stage == "evaluate":
        run("evaluate", "init")  # only images that the same rewards scored are compared
    base = "the input 'base' changed; " * (stage == "evaluate")
    goes_on_as_new(stage, f"{base}the input 'reward plug-in {name}:Mine' changed.", capsys)


@pytest.mark.slow
def test_the_code(project: Path) -> None:
    """A line of a module that the stage imports, changed between a kill and the next start; and while it runs."""
    for name in ("dfusion_core", "stages"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__", "pretrain"))
    forget("sample")

    def started(setup: str) -> subprocess.CompletedProcess[str]:
        script = (
            f"import runpy, sys\nsys.argv = ['sample', 'r00']\n{setup}\n"
            "runpy.run_module('stages.sample', run_name='__main__')"
        )
        return subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(project)},
        )

    killed = started(
        "import os, signal\nfrom dfusion_core.store.parts import Parts\nreal = Parts.write\n"
        "def write(*a):\n    real(*a)\n    os.kill(os.getpid(), signal.SIGKILL)\nParts.write = write"
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list(Path(".dfusion/r00/sample").rglob("parts/*"))) == 1
    with Path("dfusion_core/diffusion/ddim.py").open("a") as file:
        file.write("EDITED = 1\n")
    edit = 'open("dfusion_core/diffusion/ddim.py", "a").write("AGAIN = 1\\n")'
    meanwhile = started(
        "from dfusion_core.store.parts import Parts\nreal = Parts.write\n"
        f"def write(*a):\n    real(*a)\n    {edit}\nParts.write = write"
    )
    assert "starts from the beginning, because the code dfusion_core/diffusion/ddim.py changed." in meanwhile.stdout
    assert meanwhile.returncode == 1 and "the code dfusion_core/diffusion/ddim.py changed" in meanwhile.stderr
    assert not Path("runs/r00/sample").exists()
    with Path("dfusion_core/diffusion/ddim.py").open("a") as file:
        file.write("# a comment\n")
    again = started("")
    assert again.returncode == 0, again.stderr
