"""What `dfusion plan` costs on the params.yaml of the repository."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from ..bench import Bench
from ..result import Result, at_most
from .clone import ROOT, call, processor_seconds

PROGRAM = ("-m", "dfusion_core.commands.cli", "plan", "--params", str(ROOT / "params.yaml"))


def plan_of_default(bench: Bench) -> list[Result]:
    """Seconds of the processor of the whole command, one thread, its files read before."""
    processor, wall = [], []
    for repeat in range(bench.sizes.repeats + 1):
        start, used = time.perf_counter(), processor_seconds()
        with tempfile.TemporaryDirectory() as temporary:
            (Path(temporary) / "dfusion_core").symlink_to(ROOT / "dfusion_core")  # its prompts, by their path there
            call(Path(temporary), sys.executable, *PROGRAM, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
        if repeat:
            wall.append(time.perf_counter() - start)
            processor.append(processor_seconds() - used)
    return [
        Result(
            "plan",
            "seconds of the processor of dfusion plan on the default params.yaml",
            tuple(processor),
            at_most(10),
            note=f"{median(wall):.1f} s on the clock",
        )
    ]
