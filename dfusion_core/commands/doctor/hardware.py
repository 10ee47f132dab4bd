"""The device: its existence, the accuracy of its arithmetic, and its memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ...errors import one_line
from .facts import Facts
from .findings import Finding, failed, ok, warning

if TYPE_CHECKING:
    import torch

GIB = 2**30
REMEDY = "Set model.dtype to fp32."
ROUNDINGS = 8  # units of the type's precision, relative to the largest value
TF32 = 2e-3  # GPUs round the factors of fp32 convolutions to 10 bits


def device(facts: Facts) -> Finding:
    """model.device exists."""
    import torch

    from ...models.device import pick_device

    wanted = facts.params.model.device
    chosen = pick_device(wanted)
    try:
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return failed(
            f"model.device: {wanted} cannot be used: {str(error).splitlines()[0].rstrip('.')}",
            "Set model.device to auto.",
        )
    facts.device = chosen
    name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else chosen.type
    threads, cores = torch.get_num_threads(), available_cores()
    found = f"{name}, {threads} CPU threads of {cores} cores"
    if threads > cores:
        return warning(found, f"export OMP_NUM_THREADS={cores}")
    return ok(found)


def dtype(facts: Facts) -> Finding:
    """model.dtype works there: a matrix product, a convolution and an attention are close to those in fp32."""
    import torch

    from ...models.device import pick_dtype

    facts.dtype = pick_dtype(facts.params.model.dtype, facts.device)
    short = str(facts.dtype).removeprefix("torch.")
    exact = products(torch.device("cpu"), torch.float32)
    try:
        found = products(facts.device, facts.dtype)
    except (RuntimeError, NotImplementedError) as error:
        return failed(f"model.dtype: {facts.device.type} does not compute in {short}: {one_line(error)}", REMEDY)
    off = {name: _off(exact[name], found[name]) for name in exact}
    tolerance = max(ROUNDINGS * torch.finfo(facts.dtype).eps, TF32 if facts.device.type == "cuda" else 0.0)
    said = f"{short}, off by " + ", ".join(f"{value:.1g} ({name})" for name, value in off.items())
    if all(value <= tolerance for value in off.values()):
        return ok(said)
    return failed(f"{said}; rounding explains {tolerance:.1g}", REMEDY)


def products(device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Operations of a U-Net on fixed random numbers."""
    import torch
    from torch.nn.functional import conv2d, scaled_dot_product_attention

    draw = torch.Generator().manual_seed(0)
    x, kernel = (torch.randn(shape, generator=draw).to(device, dtype) for shape in ((2, 16, 16, 16), (16, 16, 3, 3)))
    rows = x.flatten(2)  # (2, 16, 256)
    return {
        "matmul": rows @ rows.transpose(1, 2),
        "convolution": conv2d(x, kernel),
        "attention": scaled_dot_product_attention(*[rows.unflatten(2, (4, 64)).transpose(1, 2)] * 3),
    }


def memory(facts: Facts) -> Finding:
    """The weights fit into the free memory; `dfusion plan` computes the memory of a run."""
    import torch

    from ...models.device import DTYPES

    source = facts.source
    names = [name for name in source.files if name.endswith(".safetensors")]
    weights = sum((source.path if source.is_single_file else source.path / name).stat().st_size for name in names)
    if facts.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(facts.device)
    else:
        free, total = free_memory()
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free; files of weights {weights / GIB:.2f} GiB"
    if weights > free:
        smaller = " or set model.dtype to fp16" if facts.dtype is DTYPES["fp32"] else ""
        return warning(found, f"End what else is using it{smaller}; see 'dfusion plan'.")
    return ok(found)


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> tuple[int, int]:
    """Free and total bytes; if the system does not tell, all memory counts as free."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/proc/meminfo") as file:
            sizes = dict(line.split(":") for line in file)
        return int(sizes["MemAvailable"].split()[0]) * 1024, total
    except (OSError, KeyError):
        return total, total


def _off(exact: torch.Tensor, found: torch.Tensor) -> float:
    """Largest difference relative to the largest value; infinite if a value is not finite."""
    if not found.isfinite().all():
        return float("inf")
    return float((found.float().cpu() - exact).abs().max() / exact.abs().max())
