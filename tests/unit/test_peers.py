"""Ranks that wait say for whom, end on signals, and tell one that computes from one that is stopped or dead."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dfusion_core.errors import LaunchError
from dfusion_core.runtime import ranks
from dfusion_core.runtime.peers import DEFAULT_TIMEOUT, TIMEOUT, timeout_seconds

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys, time, torch
from dfusion_core.runtime import collective, peers, ranks
from dfusion_core.training import summing
from dfusion_core.runtime.entry import among_ranks, guarded, stop_on_signals
peers.QUIET, peers.BEAT = 1.5, 0.5
stop_on_signals()

def stage():
    ones = torch.full((2,), float(ranks.rank() + 1))
    summing.add_up([ones])
    print("sum", ones.tolist(), flush=True)
    print("met", file=sys.stderr, flush=True)
    if ranks.rank() == 1:
        time.sleep(float(os.environ["STAY"]))
    collective.wait()
    print("done", flush=True)

guarded(among_ranks(stage))()
"""


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start(
    rank: int, port: int, *command: str, stay: float = 0, minutes: float = 5, world: int = 2
) -> subprocess.Popen[str]:
    """One rank of two. STAY: seconds that rank 1 computes between two exchanges."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "STAY": str(stay),
        TIMEOUT: str(minutes),
    }
    return subprocess.Popen(
        [sys.executable, *(command or ("-c", PROGRAM))],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Its errors up to the line with this text."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if text in line:
            return said
    raise AssertionError(said)


def end(process: subprocess.Popen[str], number: signal.Signals, within: float = 2) -> int:
    process.send_signal(number)
    return process.wait(timeout=within)


@pytest.mark.few(1)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stage_with_left_over_variables(workspace: Path, port: int, number: signal.Signals) -> None:
    """As Kubeflow and SLURM scripts leave them: says for whom it waits and how to run alone; ends within 2 s."""
    process = start(0, port, "-m", "stages.init")
    said = read_until(process, "waits")
    assert f"127.0.0.1:{port}" in said and "1 of 2" in said and "rank 1" in said
    assert "unset RANK WORLD_SIZE" in said
    assert end(process, number) == 128 + number
    assert "Traceback" not in process.communicate()[1]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_others_that_do_not_come_in_time(port: int, rank: int) -> None:
    process = start(rank, port, minutes=0.1)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 1 and out == ""
    error = said.strip().splitlines()[-1]
    assert error.startswith("error: ") and f"rank {1 - rank}" in error and "0.1 minutes" in error and TIMEOUT in error


@pytest.mark.slow
def test_one_that_computes_longer_than_the_timeout(port: int) -> None:
    """It gives signs of life, so nobody gives up on it; sums are right, and one rank speaks."""
    both = [start(rank, port, stay=7, minutes=0.05) for rank in (0, 1)]
    outs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    assert outs[0][0] == "sum [3.0, 3.0]\ndone\n" and outs[1][0] == ""
    assert "waits" not in outs[0][1] + outs[1][1]


def stopped(port: int, minutes: float) -> list[subprocess.Popen[str]]:
    """Two ranks of which the second is stopped between two exchanges, when the first says so."""
    both = [start(rank, port, stay=60, minutes=minutes) for rank in (0, 1)]
    read_until(both[1], "met")
    both[1].send_signal(signal.SIGSTOP)
    assert "rank 1" in read_until(both[0], "waits for rank 1")
    return both


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_is_stopped(port: int, number: signal.Signals) -> None:
    first, second = stopped(port, minutes=5)
    assert end(first, number) == 128 + number
    second.kill()
    assert "Traceback" not in first.communicate()[1] + second.communicate()[1]


@pytest.mark.slow
def test_one_that_is_stopped_for_too_long(port: int) -> None:
    first, second = stopped(port, minutes=0.1)
    _, said = first.communicate(timeout=30)
    second.kill()
    second.communicate()
    assert first.returncode == 1 and "Traceback" not in said
    assert "rank 1 has not answered for 0.1 minutes" in said and "run the same command again" in said


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_one_that_dies(port: int, dies: int) -> None:
    """SIGKILL, without torchrun to end the other: it ends within seconds by itself, with a line."""
    both = [start(rank, port, stay=60 if dies else 8) for rank in (0, 1)]
    read_until(both[dies], "met")
    both[dies].kill()
    _, said = both[1 - dies].communicate(timeout=30)
    both[dies].communicate()
    assert both[1 - dies].returncode == 1 and "Traceback" not in said
    assert "run the same command again" in said


def test_a_port_that_is_taken(port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        process = start(0, port)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and f"127.0.0.1:{port}" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("name", "value"),
    [("WORLD_SIZE", "two"), ("WORLD_SIZE", "0"), ("WORLD_SIZE", "-2"), ("RANK", "2"), ("RANK", "-1"), ("RANK", "0x1")],
)
def test_numbers_that_are_none(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    given = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"} | {name: value}
    for key, text in given.items():
        monkeypatch.setenv(key, text)
    with pytest.raises(LaunchError, match=f"{name}.*unset RANK WORLD_SIZE"):
        ranks.leads()


@pytest.mark.parametrize("value", ["never", "0", "-1", "nan", "inf", "1e9"])
def test_timeouts_that_are_none(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(TIMEOUT, value)
    with pytest.raises(LaunchError, match=f"{TIMEOUT}.*{value}.*unset"):
        timeout_seconds()
    monkeypatch.setenv(TIMEOUT, "")
    assert timeout_seconds() == DEFAULT_TIMEOUT * 60


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_half_a_launcher_is_none(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Clusters set some of them for other purposes; without an address to meet at, a process is alone."""
    for name in ranks.VARIABLES:
        monkeypatch.setenv(name, "" if name == missing else "4")
    assert (ranks.world(), ranks.rank(), ranks.leads()) == (1, 0, True)
    assert ranks.share([1, 2, 3]) == [1, 2, 3]
