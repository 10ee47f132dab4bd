"""AdamW's state as named arrays, passed from round to round and saved for resuming, without pickle.

``train.optimizer: adamw_8bit`` is AdamW of bitsandbytes, whose moments are bytes with a scale per block; matrices of
fewer than 4096 numbers stay in 32 bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ..errors import ParamsError, StoreError, one_line
from ..store.hints import how_to_mend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..params.sections import Train

Parameters = dict[str, torch.nn.Parameter]
Arrays = dict[str, Any]
Optimizer = torch.optim.Optimizer  # torch's AdamW, or bitsandbytes'
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
# bitsandbytes: moments, and for bytes the table of their values and the scales of the blocks
PLAIN_8BIT = ("state1", "state2", "step")
QUANTIZED = ("qmap1", "qmap2", "absmax1", "absmax2")
BLOCK = 256  # numbers that share a scale


def make_optimizer(train: Train, weights: Sequence[torch.nn.Parameter]) -> Optimizer:
    """The optimizer of ``train``. Raises ParamsError if its package is not installed."""
    check_installed(train)
    numbers = (train.learning_rate, train.betas, train.epsilon, train.weight_decay)
    if train.optimizer == "adamw":
        return torch.optim.AdamW(weights, *numbers)
    import bitsandbytes

    made: Optimizer = bitsandbytes.optim.AdamW8bit(weights, *numbers)
    return made


def check_installed(train: Train) -> None:
    """Raise ParamsError if the optimizer's package is not installed."""
    if train.optimizer == "adamw_8bit":
        try:
            import bitsandbytes  # noqa: F401
        except ImportError as error:
            raise ParamsError(
                f"train.optimizer: adamw_8bit needs bitsandbytes ({one_line(error)}).",
                "Install it with 'pip install bitsandbytes', or set train.optimizer to adamw.",
            ) from error


def to_arrays(optimizer: Optimizer, parameters: Parameters) -> Arrays:
    """``"exp_avg/NAME"`` and so on for every parameter that has been updated."""
    return {
        f"{key}/{name}": np.atleast_1d(torch.as_tensor(optimizer.state[p][key]).detach().cpu().numpy())
        for name, p in parameters.items()
        if p in optimizer.state
        for key in keys_of(optimizer)
        if key in optimizer.state[p]
    }


def keys_of(optimizer: Optimizer) -> tuple[str, ...]:
    """The entries that the state of a parameter may have."""
    return MOMENTS if isinstance(optimizer, torch.optim.AdamW) else (*PLAIN_8BIT, *QUANTIZED)


def from_arrays(optimizer: Optimizer, parameters: Parameters, arrays: Arrays) -> None:
    """Restore the moments; parameters without moments start from zero.

    Raises ValueError for a moment that is missing, of another shape than its parameter, NaN or infinite, and for those
    of another optimizer.
    """
    check_arrays(optimizer, parameters, arrays)
    for name, p in parameters.items():
        if f"step/{name}" not in arrays:
            continue
        found = {
            key: torch.from_numpy(np.array(arrays[f"{key}/{name}"]))
            for key in keys_of(optimizer)
            if f"{key}/{name}" in arrays
        }
        step = found.pop("step").reshape(())
        moments = {
            key: (value.view_as(p) if key not in QUANTIZED else value).to(p.device) for key, value in found.items()
        }
        is_torch = isinstance(optimizer, torch.optim.AdamW)
        optimizer.state[p] = {"step": step.float() if is_torch else int(step), **moments}


def check_arrays(optimizer: Optimizer, parameters: Parameters, arrays: Arrays) -> None:
    """Raise ValueError as `from_arrays` says."""
    known, needed = keys_of(optimizer), MOMENTS if isinstance(optimizer, torch.optim.AdamW) else PLAIN_8BIT
    foreign = sorted(key for key in arrays if key.partition("/")[0] not in known)
    if foreign:
        raise ValueError(f"{foreign[0]} is of another optimizer than train.optimizer")
    for name, p in parameters.items():
        there = [key for key in known if f"{key}/{name}" in arrays]
        if not there:
            continue
        quantized = any(key in QUANTIZED for key in there)
        for key in (*needed, *(QUANTIZED if quantized else ())):
            found = arrays.get(f"{key}/{name}")
            if found is None or found.size != _size(key, p) or found.dtype != _dtype(optimizer, key, quantized):
                raise ValueError(f"{key}/{name} is missing or does not fit the adapter")
            if not np.isfinite(found).all():
                raise ValueError(f"{key}/{name} is NaN or infinite")


def _size(key: str, p: torch.nn.Parameter) -> int:
    blocks = -(-p.numel() // BLOCK)
    return {"step": 1, "qmap1": 256, "qmap2": 256, "absmax1": blocks, "absmax2": blocks}.get(key, p.numel())


def _dtype(optimizer: Optimizer, key: str, quantized: bool) -> Any:
    if isinstance(optimizer, torch.optim.AdamW):
        return np.float32
    return np.int64 if key == "step" else np.uint8 if quantized and key in PLAIN_8BIT else np.float32


def epsilon_share(optimizer: Optimizer, parameters: Parameters) -> dict[str, float]:
    """Mean share of epsilon in AdamW's denominator, epsilon / (sqrt(v_hat) + epsilon), for the matrices A and B.

    Near 0 the step does not depend on the gradient's size; near 1 gradients are so small that epsilon suppresses the
    step. Call it after a step.
    """
    shares: dict[str, list[torch.Tensor]] = {"A": [], "B": []}
    group = optimizer.param_groups[0]
    for name, p in parameters.items():
        if p in optimizer.state:
            state = optimizer.state[p]
            v_hat = second_moment(state) / (1 - group["betas"][1] ** float(state["step"]))
            matrix = "A" if "lora_A" in name else "B"
            shares[matrix].append((group["eps"] / (v_hat.sqrt() + group["eps"])).flatten())
    return {matrix: float(torch.cat(parts).mean()) if parts else 0.0 for matrix, parts in shares.items()}


def second_moment(state: dict[str, Any]) -> torch.Tensor:
    """v of AdamW from a parameter's state, in 32 bits."""
    if "absmax2" in state:
        from bitsandbytes.functional import dequantize_blockwise

        found: torch.Tensor = dequantize_blockwise(
            state["state2"], absmax=state["absmax2"], code=state["qmap2"], blocksize=BLOCK
        )
        return found
    moment: torch.Tensor = state["exp_avg_sq"] if "exp_avg_sq" in state else state["state2"]
    return moment


def save_optimizer(optimizer: Optimizer, parameters: Parameters, file: Path) -> None:
    """Write the moments as safetensors."""
    file.write_bytes(save(to_arrays(optimizer, parameters)))  # save_file would hide that the disk is full


def load_optimizer(optimizer: Optimizer, parameters: Parameters, file: Path) -> None:
    """Read the moments of the previous round; the first round has none. Raises StoreError."""
    if not file.exists():
        return
    try:
        from_arrays(optimizer, parameters, load_file(file))
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise StoreError(f"train: {file} cannot be used: {one_line(error)}.", how_to_mend(file.parent)) from error
