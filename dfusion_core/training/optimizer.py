"""AdamW's state as named arrays: carried from round to round and through every interruption, without pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ..errors import StoreError, one_line
from ..store.hints import how_to_mend

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def to_arrays(optimizer: torch.optim.AdamW, parameters: dict[str, torch.nn.Parameter]) -> dict[str, Any]:
    """``"exp_avg/NAME"`` and so on for every parameter that has been updated."""
    return {
        f"{moment}/{name}": np.atleast_1d(optimizer.state[p][moment].detach().cpu().numpy())
        for name, p in parameters.items()
        if p in optimizer.state
        for moment in MOMENTS
    }


def from_arrays(
    optimizer: torch.optim.AdamW, parameters: dict[str, torch.nn.Parameter], arrays: dict[str, Any]
) -> None:
    """Put the moments back; parameters without any start afresh.

    Raises ValueError for a moment that is missing, of another shape than its parameter, NaN or infinite.
    """
    check_arrays(parameters, arrays)
    for name, p in parameters.items():
        if f"step/{name}" in arrays:
            found = {moment: torch.from_numpy(np.array(arrays[f"{moment}/{name}"])) for moment in MOMENTS}
            optimizer.state[p] = {
                "step": found["step"].reshape(()).float(),
                "exp_avg": found["exp_avg"].to(p).view_as(p),
                "exp_avg_sq": found["exp_avg_sq"].to(p).view_as(p),
            }


def check_arrays(parameters: dict[str, torch.nn.Parameter], arrays: dict[str, Any]) -> None:
    """Raise ValueError as `from_arrays` says."""
    for name, p in parameters.items():
        if any(f"{moment}/{name}" in arrays for moment in MOMENTS):
            for moment in MOMENTS:
                found, size = arrays.get(f"{moment}/{name}"), 1 if moment == "step" else p.numel()
                if found is None or found.size != size or found.dtype != np.float32:
                    raise ValueError(f"{moment}/{name} is missing or does not fit the adapter")
                if not np.isfinite(found).all():
                    raise ValueError(f"{moment}/{name} is NaN or infinite")


def epsilon_share(optimizer: torch.optim.AdamW, parameters: dict[str, torch.nn.Parameter]) -> dict[str, float]:
    """Mean share of epsilon in AdamW's denominator, epsilon / (sqrt(v_hat) + epsilon), for the matrices A and B.

    Near 0 the step does not depend on the gradient's size; near 1 gradients are so small that epsilon makes the step
    vanish. Call it after a step.
    """
    shares: dict[str, list[torch.Tensor]] = {"A": [], "B": []}
    group = optimizer.param_groups[0]
    for name, p in parameters.items():
        if p in optimizer.state:
            state = optimizer.state[p]
            v_hat = state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))
            matrix = "A" if "lora_A" in name else "B"
            shares[matrix].append((group["eps"] / (v_hat.sqrt() + group["eps"])).flatten())
    return {matrix: float(torch.cat(parts).mean()) if parts else 0.0 for matrix, parts in shares.items()}


def save_optimizer(optimizer: torch.optim.AdamW, parameters: dict[str, torch.nn.Parameter], file: Path) -> None:
    """Write the moments as safetensors."""
    file.write_bytes(save(to_arrays(optimizer, parameters)))  # save_file would hide that the disk is full


def load_optimizer(optimizer: torch.optim.AdamW, parameters: dict[str, torch.nn.Parameter], file: Path) -> None:
    """Read the moments where the round before left them; the first round has none. Raises StoreError."""
    if not file.exists():
        return
    try:
        from_arrays(optimizer, parameters, load_file(file))
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise StoreError(f"train: {file} cannot be used: {one_line(error)}.", how_to_mend(file.parent)) from error
