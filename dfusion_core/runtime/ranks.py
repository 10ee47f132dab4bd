"""Several processes on one stage, as torchrun or accelerate start them: who does what, and what they tell each other.

    launcher: {sample: "torchrun --standalone --nproc_per_node 8"}     # params.yaml

Each process runs the same stage and makes a share of its rows; the leader, rank 0, alone holds the lock, prints and
publishes. They talk through gloo on the CPU: what is exchanged (an adapter's gradient, a table of log-probs) is small,
and the same code serves any device. All of them must see the same folders.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")


def world() -> int:
    """How many processes there are; 1 unless a launcher has set all that they need to find each other."""
    started = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))
    return int(os.environ["WORLD_SIZE"]) if started else 1


def rank() -> int:
    """The number of this process."""
    return int(os.environ["RANK"]) if world() > 1 else 0


def leads() -> bool:
    """Whether this is the process that prints and publishes."""
    return rank() == 0


def share(items: Sequence[Item]) -> list[Item]:
    """This process's items: one block of them, so that neighbours (a prompt's images) stay together.

    The same whatever is finished already: a run that goes on needs no agreement on who does what.
    """
    here, all_ = rank(), world()
    return list(items[len(items) * here // all_:len(items) * (here + 1) // all_])


def wait() -> None:
    """Wait until every process is here."""
    if world() > 1:
        _group()
        import torch.distributed

        torch.distributed.barrier()


@contextmanager
def leader_first() -> Iterator[None]:
    """What the leader does alone, and the others after it: they find what it has left behind."""
    if not leads():
        wait()
    yield
    if leads():
        wait()


def add_up(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor by its sum over the processes; one exchange for all of them. Every process must call it."""
    if world() == 1 or not tensors:
        return
    _group()
    import torch

    flat = torch.cat([tensor.detach().flatten().float().cpu() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(part.view_as(tensor))


def _group() -> None:
    """Join the others, once. One may be hours ahead, so nobody gives up on it: the launcher ends all if one dies."""
    from datetime import timedelta

    import torch.distributed

    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))
