"""Several processes on one stage, as torchrun or accelerate start them: who does what, and what they tell each other.

    launcher: {sample: "torchrun --standalone --nproc_per_node 8"}     # params.yaml

Each process runs the same stage and makes a share of its rows; the leader, rank 0, alone holds the lock, prints and
publishes. They exchange tensors by gloo on the CPU: what is exchanged (an adapter's gradient, a table of log-probs) is
small, and the same code serves any device. All of them must see the same folders.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from ..errors import LaunchError, short

if TYPE_CHECKING:
    import torch

    from .peers import Peers

Item = TypeVar("Item")

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what a launcher sets for each of its processes
ALONE = f"To run it as a single process: unset {' '.join(VARIABLES)}."

_peers: list[Peers] = []  # at most one; the others of this process's group, once they have been met


def world() -> int:
    """The number of processes; 1 unless a launcher has set all VARIABLES. Raises LaunchError if it is no number."""
    return _number("WORLD_SIZE", 1) if all(os.environ.get(name) for name in VARIABLES) else 1


def rank() -> int:
    """The number of this process, 0 <= rank < world. Raises LaunchError."""
    count = world()
    if count == 1:
        return 0
    number = _number("RANK", 0)
    if number >= count:
        raise LaunchError(f"RANK: {number} is not below WORLD_SIZE, which is {count}.", ALONE)
    return number


def leads() -> bool:
    """Whether this is the process that prints and publishes. Raises LaunchError."""
    return rank() == 0


def share(items: Sequence[Item]) -> list[Item]:
    """This process's items: one block of them, so that neighbours (a prompt's images) stay together.

    The same whatever is finished already: a run that goes on needs no agreement on who does what.
    """
    here, all_ = rank(), world()
    return list(items[len(items) * here // all_:len(items) * (here + 1) // all_])


def join() -> None:
    """Meet the other processes, once; from then on a process that stops answering is noticed.

    Raises LaunchError if they do not all come within DFUSION_RANKS_TIMEOUT minutes.
    """
    if world() > 1 and not _peers:
        from .peers import Peers

        _peers.append(Peers(rank(), world()))


def wait() -> None:
    """Wait until every process is here, for hours if need be. Raises LaunchError if one has died."""
    if world() > 1:
        join()
        from torch.distributed import barrier

        _peers[0].exchange(barrier)


@contextmanager
def leader_first() -> Iterator[None]:
    """What the leader does alone, and the others after it: they find what it has left behind."""
    if not leads():
        wait()
    yield
    if leads():
        wait()


def add_up(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor by its sum over the processes; one exchange for all of them. Every process must call it.

    Raises LaunchError if a process has died.
    """
    if world() == 1 or not tensors:
        return
    join()
    import torch

    flat = torch.cat([tensor.detach().flatten().float().cpu() for tensor in tensors])
    _peers[0].exchange(lambda: torch.distributed.all_reduce(flat))
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(part.view_as(tensor))


def _number(name: str, least: int) -> int:
    """An integer of the environment. Raises LaunchError."""
    text = os.environ[name]
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise LaunchError(f"{name}: must be an integer of {least} or more (got '{short(text)}').", ALONE)
    return int(text)
