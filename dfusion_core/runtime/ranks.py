"""Several processes on one stage, as torchrun or another launcher starts them: the rank of this one, and its share.

    launcher: {sample: "torchrun --standalone --nproc_per_node 8"}     # params.yaml

Each process runs the same stage and makes a share of its rows; the leader, rank 0, alone holds the lock, prints and
publishes. All of them need the same folders.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

from ..errors import LaunchError, short

Item = TypeVar("Item")

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # variables that a launcher sets for each process
ALONE = f"To run it as a single process: unset {' '.join(VARIABLES)}."


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
    """This process's items: one contiguous block, so that the images of a prompt stay together.

    The block does not depend on what is finished, so that a resumed run divides the work in the same way.
    """
    here, all_ = rank(), world()
    return list(items[len(items) * here // all_ : len(items) * (here + 1) // all_])


def _number(name: str, least: int) -> int:
    """An integer of the environment. Raises LaunchError."""
    text = os.environ[name]
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise LaunchError(f"{name}: must be an integer of {least} or more (got '{short(text)}').", ALONE)
    return int(text)
