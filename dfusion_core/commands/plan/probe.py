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

LONG = 1e12  # FLOPs of a pass: one that is longer takes many seconds on a CPU, and a block stands for the U-Net
ENOUGH = 1e10  # FLOPs of a forward pass on a CPU, tenths of a second: more rows at once do not change the time of a row
SECONDS = 0.3  # of timed passes
SPIN = 0.1  # seconds of looking how much of a core this process is given
BUSY = 0.8  # of a core: below it, other programs are at work
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
    if not (rows and trained):
        rows = trained = 0
    network = networks.build_unet(costs.architecture, dtype)
    forward = _rate(costs, network, rows, device, train=False)
    networks.add_adapter(network, params.lora, checkpointing=params.model.gradient_checkpointing)
    training = _rate(costs, network, trained, device, train=True)
    what = (
        f"the U-Net with random weights, {rows} rows forward, {trained} rows trained"
        if rows
        else "the U-Net's first block with attention, random weights"
    )
    return Device(name, memory, forward, training, f"measured here: {what}{_busy(share_of_core())}")


def share_of_core() -> float:
    """What other programs leave this process of a core, 0 to 1, looked at for a tenth of a second."""
    start, used = time.perf_counter(), time.process_time()
    while (passed := time.perf_counter() - start) < SPIN:
        pass
    return min(1.0, (time.process_time() - used) / passed)


def _busy(share: float) -> str:
    return f", while other programs took {1 - share:.0%} of a core: later it may be faster" if share < BUSY else ""


def _rows(wanted: int, flops: int, bytes_each: int, costs: Costs, device: torch.device) -> int:
    """Rows of a timed pass; 0 if only a block is timed."""
    if device.type == "cuda":
        room = torch.cuda.mem_get_info(device)[0] // 2 - costs.unet_weights
        return max(0, min(wanted, room // bytes_each))
    return min(wanted, max(2, int(ENOUGH / costs.row_flops))) if wanted * flops < LONG else 0


def _rate(costs: Costs, network: networks.Network, rows: int, device: torch.device, *, train: bool) -> float:
    """FLOP/s of passes of the network, or with ``rows`` 0 of one row through its first block with attention."""
    if rows:
        flops = rows * (costs.trained_row_flops if train else costs.row_flops)
        networks.materialise(network, device)
        run: Call = row_call(costs.architecture, network, costs.latent_size, rows, device)
    else:
        flops, run = _part(costs, network, device, train=train)
    return flops / _seconds(_trained(run) if train else torch.no_grad()(run), device)


def _part(costs: Costs, network: networks.Network, device: torch.device, *, train: bool) -> tuple[int, Call]:
    """FLOPs and a call of one row through a transformer of one block of each kind, or a U-Net's first with attention.

    The weights of nothing else are on the device.
    """
    architecture = costs.architecture
    part = shorten(network) if architecture.is_transformer else networks.first_block(network)[1]

    def call(device: torch.device) -> Call:
        if architecture.is_transformer:
            return row_call(architecture, network, costs.latent_size, 1, device)
        return networks.block_call(network, 1, networks.tokens_of(architecture), device, costs.latent_size)

    part.to(networks.META)
    on_meta = call(networks.META)
    flops = counting.training_flops(on_meta) if train else counting.forward_flops(on_meta)
    networks.materialise(part, device)
    return flops, call(device)


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
