"""Selection of device and dtype."""

import os

import torch

from ..runtime.ranks import world

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def pick_device(name: str) -> torch.device:
    """The named device; "auto" is the first GPU, else the CPU. Each of several processes takes its own GPU."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if name == "cuda" and world() > 1 else name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The named dtype; "auto" is fp16 on a GPU (finer than bf16 for log-probs) and fp32 on a CPU."""
    return DTYPES[("fp16" if device.type == "cuda" else "fp32") if name == "auto" else name]
