"""Time of a stage before its first row."""

from __future__ import annotations

import time


def start_up_seconds() -> float:
    """Seconds of a stage's imports; call it before large libraries are imported."""
    start = time.perf_counter()
    import open_clip  # noqa: F401
    import pandas  # noqa: F401
    import peft  # noqa: F401
    import zarr  # noqa: F401
    from diffusers import StableDiffusionPipeline  # noqa: F401

    return time.perf_counter() - start
