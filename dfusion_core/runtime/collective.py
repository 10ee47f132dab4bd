"""What the processes of a stage do together: meet, wait for each other, exchange.

Tensors are exchanged by gloo on the CPU: what is exchanged (an adapter's gradient, a table of log-probs) is small, and
the same code serves any device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .peers import Peers
from .ranks import leads, rank, world

_peers: list[Peers] = []  # at most one; the others of this process's group, once they have been met


def join() -> None:
    """Meet the other processes, once; from then on a process that stops answering is noticed.

    Raises LaunchError if they do not all come within DFUSION_RANKS_TIMEOUT minutes.
    """
    if world() > 1 and not _peers:
        _peers.append(Peers(rank(), world()))


def exchange(call: Callable[[], Any]) -> None:
    """Run a collective call of torch.distributed; every process must. Raises LaunchError if one has died."""
    if world() > 1:
        join()
        _peers[0].exchange(call)


def wait() -> None:
    """Wait until every process is here, for hours if need be. Raises LaunchError if one has died."""
    if world() > 1:
        from torch.distributed import barrier

        exchange(barrier)


@contextmanager
def leader_first() -> Iterator[None]:
    """What the leader does alone, and the others after it: they find what it has left behind."""
    if not leads():
        wait()
    yield
    if leads():
        wait()
