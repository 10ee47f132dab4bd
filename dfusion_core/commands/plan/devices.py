"""Devices: the one of this machine, measured, or a named one, estimated from published figures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import did_you_mean

if TYPE_CHECKING:
    import torch

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """``memory`` in bytes; ``forward`` and ``training`` in FLOP/s, None if unknown; ``basis`` is their
    origin."""

    name: str
    memory: int
    forward: float | None
    training: float | None
    basis: str


@dataclass(frozen=True)
class Published:
    """A GPU by its data sheet: GiB, dense 16-bit peak in TFLOP/s (fp32 accumulation), and the share of it that
    a Stable Diffusion U-Net reaches in eager PyTorch, from ``source``."""

    title: str
    memory_gib: int
    peak: float
    utilisation: float
    source: str


_DIFFUSERS = "diffusers' benchmark of SD 1.5, batch 4, eager PyTorch 2.0"
PUBLISHED = {
    "rtx3090": Published("NVIDIA RTX 3090", 24, 71, 0.58, f"6.46 steps/s in {_DIFFUSERS}"),
    "rtx4090": Published("NVIDIA RTX 4090", 24, 165, 0.49, f"12.6 steps/s in {_DIFFUSERS}"),
    "a100-40gb": Published("NVIDIA A100 40 GB", 40, 312, 0.24, f"11.6 steps/s in {_DIFFUSERS}"),
    "a100": Published("NVIDIA A100 80 GB", 80, 312, 0.24, f"11.6 steps/s in {_DIFFUSERS}"),
    "h100": Published(
        "NVIDIA H100 80 GB", 80, 989, 0.25, "a guess below the 0.32 of MLPerf Training 4.0, which compiles the U-Net"
    ),
    # Memory and dense BF16 peak of NVIDIA's data sheets: H200 SXM (141 GB, 1979 TFLOP/s with sparsity, half of it
    # dense), L40S (48 GB, 362), HGX B200 (180 GB a GPU, 2250), and of the RTX Blackwell architecture's white paper,
    # RTX 5090 (32 GB, 209.5 with fp32 accumulation). Capacities are rounded down to what programs see.
    "h200": Published("NVIDIA H200 141 GB", 139, 989, 0.25, "a guess: that of the H100, which has the same cores"),
    "l40s": Published("NVIDIA L40S 48 GB", 44, 362, 0.3, "a guess between those of the RTX 4090 and the H100"),
    "b200": Published("NVIDIA B200 180 GB", 178, 2250, 0.2, "a guess below that of the H100"),
    "rtx5090": Published("NVIDIA RTX 5090", 31, 209, 0.45, "a guess below that of the RTX 4090"),
}


def named_device(name: str, dtype: torch.dtype) -> Device:
    """A GPU of the list. Only 16-bit arithmetic has an estimate. Raises KeyError listing the known names."""
    found = PUBLISHED.get(name.lower().replace(" ", ""))
    if found is None:
        raise KeyError(f"there is no '{name}', only {', '.join(PUBLISHED)}. {did_you_mean(name, PUBLISHED)}".rstrip())
    basis = f"estimate, not measured: {found.peak:.0f} TFLOP/s peak x {found.utilisation} ({found.source})"
    rate = found.peak * found.utilisation * 1e12
    if dtype.itemsize != 2:
        return Device(found.title, found.memory_gib * GIB, None, None, "no estimate for fp32 arithmetic")
    return Device(found.title, found.memory_gib * GIB, rate, rate, basis)


def found_device(device: torch.device) -> tuple[str, int]:
    """Name and memory in bytes of a device of this machine. Main memory counts as a CPU's."""
    import torch

    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return properties.name, int(properties.total_memory)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{device.type} ({torch.get_num_threads()} threads)", memory
