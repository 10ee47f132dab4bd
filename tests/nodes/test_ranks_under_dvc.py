"""Two processes a stage under `dvc repro`, as torchrun starts them: the results of one, and nothing lost by a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from clones import call, environment, locked
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow
TWO = f"{sys.executable} -m torch.distributed.run --standalone --nproc_per_node 2"
ADAPTER = "train/adapter/pytorch_lora_weights.safetensors"


def set_params(folder: Path, section: str, **values: object) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params[section] |= values
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def assert_adapters_agree(one: Path, two: Path, start: Path) -> None:
    """To a thousandth of what training changed, on average. Sums are ordered anew, and AdamW divides by what may be
    small: where a gradient is near zero a single weight may be a tenth off (one of 3,584 was a hundredth off)."""
    alone, together, before = (load_file(file) for file in (one, two, start))
    moved = max(np.abs(alone[name] - before[name]).max() for name in alone)
    assert moved > 1e-4 and alone.keys() == together.keys()
    apart = np.concatenate([np.abs(together[name] - alone[name]).ravel() for name in alone]) / moved
    assert apart.mean() < 1e-3 and apart.max() < 0.1


def test_another_launcher_runs_nothing_again(copied: Path) -> None:
    """Who goes on with more processes keeps what is finished."""
    said = call(copied, "dvc", "exp", "run", "-S", f'launcher.train="{TWO}"', "-S", f'launcher.sample="{TWO}"')
    assert yaml.safe_load((copied / "params.yaml").read_text())["launcher"]["train"] == TWO
    assert "Running stage" not in said and "Stage 'train@r00' didn't change, skipping" in said


def test_two_processes_make_the_same_run(copied: Path, whole: Path) -> None:
    logged = f"{TWO} --redirects 3 --log-dir logs"  # a folder for each process
    set_params(copied, "launcher", sample=logged, train=logged)
    for number, stage in enumerate(("sample", "train"), 1):
        call(copied, "dvc", "repro", "-f", "-s", f"{stage}@r00")
        assert len(list(copied.glob("logs/*/attempt_0/[01]"))) == 2 * number
    assert locked(copied)["sample@r00"] == locked(whole)["sample@r00"]  # bit for bit
    assert_adapters_agree(whole / "runs/r00" / ADAPTER, copied / "runs/r00" / ADAPTER, whole / "runs/init" / ADAPTER)


def test_a_killed_process_costs_one_step(copied: Path) -> None:
    """SIGKILL for one of two in the middle of training: `dvc repro` fails, and called again does the rest."""
    set_params(copied, "train", inner_epochs=20)
    set_params(copied, "launcher", train=TWO)
    command = ["dvc", "repro", "-s", "train@r00"]
    process = subprocess.Popen(
        command,
        cwd=copied,
        env=environment(copied, real=True),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    kill_second_rank(process, copied)
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0, said
    assert not (copied / "runs/r00/train").exists()
    said = call(copied, *command)
    assert "train r00: continues; " in said
    interrupted = copied / "interrupted.safetensors"
    (copied / "runs/r00" / ADAPTER).rename(interrupted)
    set_params(copied, "launcher", train="python")
    call(copied, "dvc", "repro", "-f", "-s", "train@r00")
    assert_adapters_agree(copied / "runs/r00" / ADAPTER, interrupted, copied / "runs/init" / ADAPTER)


def kill_second_rank(process: subprocess.Popen[str], folder: Path) -> None:
    """As soon as an optimizer step is saved."""
    until = time.monotonic() + 180
    while not list(folder.glob(".dfusion/r00/train/*/state.safetensors")):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.001)
    for child in psutil.Process(process.pid).children(recursive=True):
        if child.environ().get("RANK") == "1":
            child.send_signal(signal.SIGKILL)
            return
    raise AssertionError("there is no second process")
