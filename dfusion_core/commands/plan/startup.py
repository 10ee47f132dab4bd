"""Time of a stage before its first row."""

from __future__ import annotations

import time


def start_up_seconds() -> float:
    """The import of torch, diffusers and peft, timed here and now: call it before anything heavy is loaded.

    They are most of what a stage imports, and what a plan needs anyway.
    """
    start = time.perf_counter()
    import peft  # noqa: F401
    from diffusers import UNet2DConditionModel  # noqa: F401

    return time.perf_counter() - start
