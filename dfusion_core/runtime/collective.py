"""Collective operations of the processes of a stage: rendezvous, barrier, exchange.

Tensors are exchanged by gloo on the CPU: they are small (an adapter's gradient, a table of log-probs), and the same
code works with any device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .peers import Peers
from .ranks import leads, rank, world

_peers: list[Peers] = []  # at most one: the peers of this process after the rendezvous


def join() -> None:
    """Rendezvous with the other processes, once; afterwards a process that stops sending heartbeats is detected.

    Raises LaunchError if they do not all start within DFUSION_RANKS_TIMEOUT minutes.
    """
    if world() > 1 and not _peers:
        _peers.append(Peers(rank(), world()))


def exchange(call: Callable[[], Any]) -> None:
    """Run a collective call of torch.distributed, in every process. Raises LaunchError if one has died."""
    if world() > 1:
        join()
        _peers[0].exchange(call)


def wait() -> None:
    """Wait until every process has called this, without a limit of time. Raises LaunchError if one has died."""
    if world() > 1:
        from torch.distributed import barrier

        exchange(barrier)


@contextmanager
def leader_first() -> Iterator[None]:
    """Run a block first in the leader, then in the others, which can use its results."""
    if not leads():
        wait()
    yield
    if leads():
        wait()
