"""The other processes of a stage: rendezvous, exchange, and detection of processes that do not respond.

The rendezvous is a TCPStore at MASTER_ADDR:MASTER_PORT, of torchrun or else of rank 0; exchanges use gloo. In the
store each process increments a heartbeat every few seconds from a thread, which distinguishes a process that computes
for hours from one that is stopped, or whose machine is lost. Gloo itself detects a process that has ended.
"""

from __future__ import annotations

import atexit
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import LaunchError, one_line, short
from .interruptible import interruptible
from .ranks import ALONE

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

TIMEOUT = "DFUSION_RANKS_TIMEOUT"  # minutes until all must have started, and without a heartbeat
DEFAULT_TIMEOUT = 10.0
PATIENCE = 3.0  # seconds until a message about processes that have not started
BEAT = 2.0  # seconds between two heartbeats
QUIET = 10.0  # seconds without a heartbeat until a message
BUSY = 60.0  # seconds until a message about processes that are still computing
AGAIN = "What is finished is kept; run the same command again to continue."


class Peers:
    """The processes of a stage after the rendezvous. Made once in each of them."""

    def __init__(self, rank: int, world: int) -> None:
        """Wait until all have started. Raises LaunchError after the timeout."""
        self.rank, self.world = rank, world
        self._timeout = timeout_seconds()
        self._here: list[int] = []  # ranks known to have started
        self._told: set[str] = set()
        self._beats: dict[int, int] = {}  # rank -> its last heartbeat
        self._entered: dict[int, int] = {}  # rank -> number of exchanges that it has begun
        self._exchanges = 0  # exchanges that this process has begun
        self._over = threading.Event()
        self._run(self._meet, self._await_all)
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        atexit.register(self._end, thread)

    def exchange(self, call: Callable[[], Any]) -> None:
        """Run a collective call of torch.distributed, which returns when every process has called it.

        Prints for which processes it waits. Raises LaunchError if another process has ended, or sent no heartbeat for
        the timeout.
        """
        self._exchanges += 1

        def work() -> None:
            self._store.add(f"exchanges/{self.rank}", 1)
            call()

        self._run(work, partial(self._await_exchange, {}))

    def _run(self, call: Callable[[], None], meanwhile: Callable[[float], None]) -> None:
        try:
            interruptible(call, meanwhile)
        except LaunchError:
            atexit.register(_exit_at_once)
            raise
        except RuntimeError as error:  # of gloo and of the store: a connection was closed, or could not be made
            atexit.register(_exit_at_once)
            raise LaunchError(
                f"rank {self.rank} of {self.world}: the connection to the other processes, who met at "
                f"{_address()}, failed: {one_line(error, 200)}.",
                f"If one of them has ended, its own message says why. {AGAIN} {ALONE}",
            ) from None

    # --- meeting ------------------------------------------------------------------------------------------------------

    def _meet(self) -> None:
        import torch.distributed as dist

        self._store = _store(self.rank, self.world, self._timeout)
        self._store.set(f"here/{self.rank}", "")
        while len(self._here) < self.world:
            self._here = [rank for rank in range(self.world) if self._store.check([f"here/{rank}"])]
            time.sleep(0.05)
        long = timedelta(days=7)  # one may compute for hours; `_watch` tells it from a dead one
        dist.init_process_group("gloo", store=self._store, rank=self.rank, world_size=self.world, timeout=long)

    def _await_all(self, seconds: float) -> None:
        if seconds < PATIENCE:
            return
        here = len(set(self._here) | {self.rank})
        missing = _ranks(set(range(self.world)) - {self.rank, *self._here}) or "the connections between them"
        waits = (
            f"waits at {_address()} for {missing}: {here} of {self.world} processes have come. "
            "Their number is WORLD_SIZE, in the environment."
        )
        if seconds > self._timeout:
            raise LaunchError(
                f"rank {self.rank} {waits} It has waited for {_minutes(self._timeout)} ({TIMEOUT}).",
                f"Start the others within this time, or set {TIMEOUT} to more minutes. {ALONE}",
            )
        self._say(f"{waits} {ALONE}")

    # --- exchanging ---------------------------------------------------------------------------------------------------

    def _await_exchange(self, last: dict[int, tuple[int, float]], seconds: float) -> None:
        """``last``: rank -> its last heartbeat, and the seconds at which it changed."""
        for rank, beats in dict(self._beats).items():
            if last.get(rank, (-1, 0.0))[0] != beats:
                last[rank] = beats, seconds
        behind = {rank for rank, count in dict(self._entered).items() if count < self._exchanges} - {self.rank}
        silence = {rank: seconds - last[rank][1] for rank in behind}
        for rank in sorted(behind):
            if silence[rank] > self._timeout:
                raise LaunchError(
                    f"rank {rank} has not answered for {_minutes(self._timeout)} ({TIMEOUT}): it is "
                    "stopped, or its machine cannot be reached.",
                    f"End what is left of it. {AGAIN}",
                )
        if self.rank != min(set(range(self.world)) - behind):
            return  # only one of the waiting processes prints
        quiet = {rank for rank in behind if silence[rank] > QUIET}
        if quiet:
            self._say(f"waits for {_ranks(quiet)}, of which nothing was heard for {QUIET:.0f} seconds.")
        elif behind and seconds > BUSY:
            self._say(f"waits for {_ranks(behind)}, still at work.")

    def _watch(self) -> None:
        """Send heartbeats and read those of the others, until the process ends or the store is closed."""
        with suppress(RuntimeError):  # of the store: gloo reports the cause
            while True:
                self._store.add(f"beats/{self.rank}", 1)
                for rank in range(self.world):
                    self._beats[rank] = self._store.add(f"beats/{rank}", 0)
                    self._entered[rank] = self._store.add(f"exchanges/{rank}", 0)
                if self._over.wait(BEAT):
                    return

    def _end(self, thread: threading.Thread) -> None:
        self._over.set()
        thread.join(timeout=2 * BEAT)

    def _say(self, text: str) -> None:
        """Print one line to stderr, once per text."""
        if text not in self._told:
            self._told.add(text)
            with suppress(OSError, ValueError):
                print(f"rank {self.rank} of {self.world}: {text}", file=sys.stderr, flush=True)


def timeout_seconds() -> float:
    """Timeout for a process that does not start or respond. Raises LaunchError."""
    given = os.environ.get(TIMEOUT) or str(DEFAULT_TIMEOUT)
    try:
        minutes = float(given)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < 1e6:
        raise LaunchError(
            f"{TIMEOUT}: must be a number of minutes above 0 (got '{short(given)}').",
            f"Without it, {DEFAULT_TIMEOUT:.0f} minutes: unset {TIMEOUT}.",
        )
    return minutes * 60


def _store(rank: int, world: int, seconds: float) -> Store:
    """The store of the rendezvous: torchrun's, else that of rank 0. Restarts by torchrun have separate keys."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    hosts = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    port = os.environ["MASTER_PORT"]
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise LaunchError(f"MASTER_PORT: must be a port, 0 to 65535 (got '{short(port)}').", ALONE)
    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(port),
        world,
        is_master=hosts,
        wait_for_workers=False,
        timeout=timedelta(seconds=seconds),
    )
    return PrefixStore(f"dfusion/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _address() -> str:
    return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"


def _ranks(ranks: Iterable[int]) -> str:
    """`rank 1`, `ranks 1, 2`; of many the first."""
    listed = sorted(ranks)
    shown = ", ".join(map(str, listed[:8])) + (" ..." if len(listed) > 8 else "")
    return f"rank{'s' * (len(listed) > 1)} {shown}" if listed else ""


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.3g} minutes"


def _exit_at_once() -> None:
    """End without the libraries' clean-up, which would wait for the abandoned thread."""
    with suppress(Exception):
        sys.stdout.flush()
    os._exit(LaunchError.exit_code)
