"""Sums over the processes of a stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..runtime.collective import exchange
from ..runtime.ranks import world


def add_up(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor by its sum over the processes; one exchange for all of them. Every process must call it.

    Raises LaunchError if a process has died.
    """
    if world() == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().flatten().float().cpu() for tensor in tensors])
    exchange(lambda: torch.distributed.all_reduce(flat))
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(part.view_as(tensor))
