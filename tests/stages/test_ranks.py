"""Two processes on every stage, through torchrun: the same artefacts as one makes, and a dead process loses nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from steps import content

from dfusion_core.runtime import ranks
from dfusion_core.store.paths import ROUND_STAGES
from dfusion_core.store.verify import check, published_folders
from dfusion_core.testing import tiny_params

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def start(folder: Path, stage: str, round: str) -> subprocess.Popen[str]:
    """A stage under torchrun, in a session of its own so that it can be killed whole."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [] if stage in ("init", "summary") else [round]
    return subprocess.Popen(
        [*TORCHRUN, "-m", f"stages.{stage}", *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return out


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["dpo", "dpok"])
def test_two_processes_make_what_one_makes(finished: Path, tmp_path: Path, algo: str) -> None:
    """Rows bit for bit, since their batches are the same; trained weights to rounding, since sums are ordered anew."""
    folder = Path(shutil.copytree(finished, tmp_path / "project"))
    if algo == "dpo":
        alone, stages = finished, list(ROUND_STAGES)
        shutil.rmtree(folder / "runs" / "r00")
    else:
        tiny_params(folder, algo=algo)
        alone = Path(shutil.copytree(folder, tmp_path / "alone"))
        subprocess.run(
            [sys.executable, "-m", "stages.train", "r00"],
            cwd=alone,
            check=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        stages = ["train"]
    for stage in stages:
        assert finish(start(folder, stage, "r00")).count("\n") <= 1  # one of them speaks
    for stage in set(stages) - {"train", "evaluate"}:
        assert content(folder / "runs/r00" / stage) == content(alone / "runs/r00" / stage), stage
    file = "runs/r00/train/adapter/pytorch_lora_weights.safetensors"
    one, two = load_file(alone / file), load_file(folder / file)
    start_weights = load_file(alone / file.replace("r00", "init"))
    moved = max(np.abs(one[name] - start_weights[name]).max() for name in one)
    assert moved > 1e-4
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=0, atol=1e-2 * moved)
    steps = [load_file(where / "runs/r00/train/optimizer.safetensors") for where in (alone, folder)]
    moments = [name for name in steps[0] if name.startswith("exp_avg/")]  # of AdamW: sums of gradients
    largest = max(np.abs(steps[0][name]).max() for name in moments)
    for name in moments:
        np.testing.assert_allclose(steps[1][name], steps[0][name], rtol=0, atol=1e-4 * largest)
    tables = [read_updates(where) for where in (alone, folder)]
    epsilon = ["epsilon_share_A", "epsilon_share_B"]  # large where a gradient is next to none
    np.testing.assert_allclose(tables[0][epsilon], tables[1][epsilon], rtol=1e-2)
    np.testing.assert_allclose(tables[0].drop(columns=epsilon), tables[1].drop(columns=epsilon), rtol=1e-3, atol=1e-6)
    assert not [problem for output in published_folders(folder / "runs") for problem in check(output, read=True)]
    assert not list((folder / ".dfusion").rglob("*.safetensors"))


def read_updates(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "runs/r00/train/updates.csv")


@pytest.mark.slow
def test_a_process_that_dies_leaves_a_stage_that_goes_on(finished: Path, tmp_path: Path) -> None:
    """SIGKILL for rank 1 in the middle of sampling: torchrun ends the other, and the same command does the rest."""
    folder = Path(shutil.copytree(finished, tmp_path / "project"))
    shutil.rmtree(folder / "runs/r00/sample")
    tiny_params(folder, sample={"batch_size": 1})
    process = start(folder, "sample", "r00")
    parts, deadline = folder / ".dfusion/r00/sample", time.monotonic() + 120
    while len(list(parts.rglob("parts/*.safetensors"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False).stdout
    os.kill(int(workers.split()[-1]), signal.SIGKILL)
    process.communicate(timeout=120)
    left = list(parts.rglob("parts/*.safetensors"))
    if process.returncode == 0:
        pytest.skip("it was done before it could be killed")
    assert left and not (folder / "runs/r00/sample").exists()
    finish(start(folder, "sample", "r00"))
    alone = Path(shutil.copytree(finished, tmp_path / "alone"))
    tiny_params(alone, sample={"batch_size": 1})
    subprocess.run(
        [sys.executable, "-m", "stages.sample", "r00"],
        cwd=alone,
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert content(folder / "runs/r00/sample") == content(alone / "runs/r00/sample")


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shares_are_blocks_that_cover_everything_once(monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    shares = []
    for rank in range(world):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(ranks.share(range(5)))
    assert sum(shares, []) == [0, 1, 2, 3, 4]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
