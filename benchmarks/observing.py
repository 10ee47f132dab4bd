"""Running rivals side by side: what each puts out, how many FLOPs and rows it takes, and how long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Side = Callable[[], Any]
CPU_ATTENTION = {  # the fused kernels of a CPU, which torch 2.14 counts as nothing
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda out, q, k, v, *_, **__: (
        sdpa_backward_flop_count(out, q, k, v)
    ),
}


@dataclass
class Seen:
    """One side: its output, FLOPs (a multiplication and an addition are two), U-Net rows, and seconds per repeat."""

    output: Any
    flops: int
    rows: int
    trained_rows: int  # those with gradients
    seconds: list[float] = field(default_factory=list)


@dataclass
class Rows:
    """Rows that went through a U-Net: one half of one image at one step each."""

    all: int = 0
    trained: int = 0


@contextmanager
def counting_rows(unets: Iterable[Any]) -> Iterator[Rows]:
    """Count the rows of every forward of these U-Nets."""
    rows = Rows()

    def count(_module: Any, arguments: tuple[Any, ...]) -> None:
        rows.all += len(arguments[0])
        rows.trained += len(arguments[0]) if torch.is_grad_enabled() else 0

    with ExitStack() as stack:
        for unet in unets:
            stack.callback(unet.register_forward_pre_hook(count).remove)
        yield rows


def look(side: Side, unets: Iterable[Any], *, flops: bool = True) -> Seen:
    """Run once and count; a compiled graph does not run where FLOPs are counted."""
    counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    with counting_rows(unets) as rows, counter if flops else nullcontext():
        output = side()
    return Seen(output, counter.get_total_flops(), rows.all, rows.trained)


def observe(
    sides: Mapping[str, Side], unets: Iterable[Any], repeats: int, device: torch.device, compiled: str = ""
) -> dict[str, Seen]:
    """Every side once, counted, which warms up; then A B A B ... timed, in this one process.

    Interleaved, so that another program on the machine disturbs all sides alike. With ``repeats`` 0 nothing is timed.
    FLOPs of the side called ``compiled`` are not counted.
    """
    unets = list(unets)
    seen = {}
    for name, side in sides.items():
        print(f"  {name}", end=" ", file=sys.stderr, flush=True)
        seen[name] = look(side, unets, flops=name != compiled)
    for _ in range(repeats):
        for name, side in sides.items():
            seen[name].seconds.append(seconds(side, device))
            print(f"{seen[name].seconds[-1]:.2f}", end=" ", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return seen


def seconds(side: Side, device: torch.device) -> float:
    """Time of one run by the device's clock, with everything that it queued on a GPU."""
    now = clock(device)
    synchronize(device)
    start = now()
    side()
    synchronize(device)
    return now() - start


def clock(device: torch.device) -> Callable[[], float]:
    """Wall time; with one thread on a CPU the processor's time, which other programs on the same core do not add to."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratios(numerator: Seen, denominator: Seen) -> tuple[float, ...]:
    """Of each repeat: how many times as long the first side took."""
    return tuple(a / b for a, b in zip(numerator.seconds, denominator.seconds, strict=True))


def times(seen: Mapping[str, Seen]) -> dict[str, tuple[float, ...]]:
    """Seconds of every side, for the record."""
    return {name: tuple(one.seconds) for name, one in seen.items()}
