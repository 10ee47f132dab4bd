"""Mistakes that are known have a line with what to do, in the stage that meets them and in `dfusion doctor`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from steps import run
from typer.testing import CliRunner

from dfusion_core.commands.cli import app
from dfusion_core.errors import DFusionError, RewardError
from dfusion_core.models.loading import load_pipeline
from dfusion_core.params.sections import Model
from dfusion_core.rewards.plugins import load_plugin
from dfusion_core.testing import tiny_params

WEIGHTS = "diffusion_pytorch_model.safetensors"
ROOT = Path(__file__).parents[2]


def configured(part: str, file: str = "config.json", **values: Any) -> None:
    path = Path("model", part, file)
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without(part: str, key: str) -> None:
    state = load_file(Path("model", part, WEIGHTS))
    save_file({name: value for name, value in state.items() if name != key}, Path("model", part, WEIGHTS))


def with_lora() -> None:
    state = load_file(Path("model/unet", WEIGHTS))
    layers = [name for name in state if name.endswith("to_q.weight")]
    for name in layers:
        state[name.replace("weight", "base_layer.weight")] = state.pop(name)
        state[name.replace("weight", "lora_A.default.weight")] = torch.zeros(2, 16)
    save_file(state, Path("model/unet", WEIGHTS))


MODELS: dict[str, tuple[Callable[[], None], str]] = {
    "U-Net": (lambda: without("unet", "conv_in.weight"), "conv_in.weight"),
    "autoencoder": (lambda: without("vae", "decoder.conv_in.weight"), "decoder.conv_in.weight"),
    "LoRA": (with_lora, "LoRA"),
    "sample_size list": (lambda: configured("unet", sample_size=[8, 12]), "sample_size"),
    "sample_size null": (lambda: configured("unet", sample_size=None), "sample_size"),
    "sample_size huge": (lambda: configured("unet", sample_size=10**6), "sample_size"),
    "no object": (lambda: void(Path("model/unet/config.json").write_text("[1]")), "model/unet/config.json"),
    "device": (lambda: void(tiny_params(Path(), model={"device": "cuda:7"})), "model.device"),
}


def void(_: object) -> None:
    """For a lambda whose value is not wanted."""


def doctor() -> dict[str, dict[str, str]]:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    return {one["name"]: one for one in json.loads(done.stdout[done.stdout.index("{") :])["checks"]}


@pytest.mark.few(2)
@pytest.mark.parametrize("case", MODELS)
def test_a_model_is_refused_at_init_and_in_doctor(
    workspace: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny_params(workspace)
    spoil, named = MODELS[case]
    spoil()
    capfd.readouterr()
    with pytest.raises(DFusionError) as caught:
        run("init")
    assert named in str(caught.value) and caught.value.hint
    assert "TRAIN" not in "".join(capfd.readouterr())  # diffusers' advice for what it made up
    failed = [one for one in doctor().values() if one["verdict"] == "failed"]
    assert any(named in one["found"] for one in failed)
    assert not any("not foreseen" in one["remedy"] for one in failed)


@pytest.mark.parametrize("limit", [10**30, None])
def test_a_tokenizer_without_a_limit(workspace: Path, limit: int | None) -> None:
    tiny_params(workspace)
    configured("tokenizer", "tokenizer_config.json", model_max_length=limit)
    assert load_pipeline(Model(id="model", device="cpu")).tokenizer.model_max_length == 16


PLUGINS = {
    "none": "",
    "number": "    def identity(self): return float('nan')\n",
    "object": "    def identity(self): return object()\n",
    "raises": "    def identity(self): raise OSError('no file')\n",
}


@pytest.mark.parametrize("case", PLUGINS)
def test_an_identity_that_cannot_be_written(workspace: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    text = f"class A:\n    def __init__(self, device): pass\n    def __call__(self, p, t): return p\n{PLUGINS[case]}"
    Path(f"named_{case}.py").write_text(text)
    monkeypatch.syspath_prepend(str(workspace))
    with pytest.raises(RewardError, match="identity"):
        load_plugin(f"named_{case}:A", torch.device("cpu"))


def test_a_plug_in_that_fails_is_named(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_params(workspace, reward={"plugins": {"failing_reward:A": 1.0}})
    Path("failing_reward.py").write_text(
        "class A:\n    def __init__(self, device): pass\n    def __call__(self, p, t): raise RuntimeError('boom')\n"
        "    def identity(self): return '1'\n"
    )
    monkeypatch.syspath_prepend(str(workspace))
    found = doctor()["scores"]
    assert found["verdict"] == "failed" and "failing_reward:A" in found["found"] and "boom" in found["found"]
    assert "not foreseen" not in found["remedy"]


@pytest.mark.few(1)
@pytest.mark.parametrize("name", [".dfusion", "runs"])
def test_a_file_in_the_place_of_a_folder(workspace: Path, name: str) -> None:
    tiny_params(workspace)
    Path(name).write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "stages.init"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert name in done.stderr and done.stderr.splitlines()[-1].startswith("error: ")
    assert not any("not foreseen" in one["remedy"] for one in doctor().values())
    Path(name).unlink()
    run("init")
