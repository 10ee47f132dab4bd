"""Speed of this device on this network: a few timed passes with random weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import ModelError
from . import counting, networks
from .costs import row_call
from .devices import Device, found_device
from .mmdit import shorten

if TYPE_CHECKING:
    from ...params.sections import Everything
    from .costs import Costs

LONG = 1e12  # FLOPs of a pass; for a larger one on a CPU a block is timed instead of the U-Net
ENOUGH = 2e10  # FLOPs of a pass on a CPU: some tenths of a second; more rows do not change the time per row
SECONDS = 0.6  # of timed passes
Call = Callable[[], Tensor]


def measured_device(params: Everything, costs: Costs, device: torch.device, dtype: torch.dtype) -> Device:
    """The device with its FLOP/s in this model's forward and training passes, at the parameters' batch sizes.

    If a pass of the whole U-Net would not fit or take long, its first block with attention is timed instead.
    """
    name, memory = found_device(device)
    halves = costs.architecture.halves
    rows = _rows(halves * params.sample.batch_size, costs.row_flops, costs.row_working, costs, device)
    trained = _rows(
        2 * halves * params.train.micro_batch, costs.trained_row_flops, costs.trained_row_saved, costs, device
    )
    plain, adapted = (networks.build_unet(costs.architecture, dtype, lora) for lora in (None, params.lora))
    forward = _rate(costs, plain, rows, device, train=False)
    training = _rate(costs, adapted, trained, device, train=True)
    what = (
        f"the U-Net with random weights, {rows} rows forward, {trained} rows trained"
        if rows and trained
        else "the U-Net's first block with attention, random weights"
    )
    return Device(name, memory, forward, training, f"measured here: {what}")


def _rows(wanted: int, flops: int, bytes_each: int, costs: Costs, device: torch.device) -> int:
    """Rows of a timed pass; 0 if only a block is timed."""
    if device.type == "cuda":
        room = torch.cuda.mem_get_info(device)[0] // 2 - costs.unet_weights
        return max(0, min(wanted, room // bytes_each))
    return min(wanted, max(2, int(ENOUGH / flops))) if wanted * flops < LONG else 0


def _rate(costs: Costs, unet: networks.Network, rows: int, device: torch.device, *, train: bool) -> float:
    """FLOP/s of passes of the network, or with ``rows`` 0 of one row through its first block with attention."""
    architecture, part = costs.architecture, unet
    if not rows:
        part = shorten(unet) if architecture.is_transformer else networks.first_block(unet)[1]

    def call(device: torch.device) -> Call:
        if rows or architecture.is_transformer:
            return row_call(architecture, unet, costs.latent_size, max(1, rows), device)
        return networks.block_call(unet, 1, networks.tokens_of(architecture), device, costs.latent_size)

    on_meta = call(networks.META)
    flops = counting.training_flops(on_meta) if train else counting.forward_flops(on_meta)
    networks.materialise(part, device)
    run = call(device)
    return flops / _seconds(_trained(run) if train else torch.no_grad()(run), device)


def _trained(run: Call) -> Call:
    """A forward pass and the backward pass to the adapter."""

    def both() -> Tensor:
        out = run()
        out.backward(torch.ones_like(out))
        return out

    return both


def _seconds(run: Call, device: torch.device) -> float:
    """Seconds of one call: the mean over `SECONDS`, after one call that warms up."""

    def passed(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    passed(1)
    first = passed(1)
    more = int(SECONDS / first) - 1
    return (first + passed(more)) / (1 + more) if more > 0 else first


def here(wanted: str, named: str) -> torch.device:
    """The device of the parameters, or the kind of a named one. Raises ModelError for a GPU that is absent."""
    from ...models.device import pick_device

    if named:
        return torch.device("cuda")
    device = pick_device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"plan: model.device: is {wanted}, and there is no GPU here.",
            "Plan for another machine with 'dfusion plan --device rtx4090', or set model.device to auto.",
        )
    return device
