"""Whether later rounds and larger rounds cost more: DVC's graph, the history of rewards, the store."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from dfusion_core.testing import tiny_params

from ..bench import Bench
from ..result import Check, Result, at_most
from .clone import ROOT, call, clone, processor_seconds

ROUNDS, VERY_MANY, QUICK_ROUNDS = 40, 300, 4  # the paper's 25,600 images are 40 rounds
IMAGES, QUICK_IMAGES = (64, 1024), (16, 64)  # of a round
PROMPTS = 2  # of the tiny project
SCRIPT = str(ROOT / "benchmarks" / "pipeline" / "in_process.py")
SMALL = {
    "sample": {"num_steps": 3, "images_per_prompt": 2},
    "fuse": {"first_t": 2},
    "prompts": {"train_count": 1},
    "evaluate": {"images_per_prompt": 1},
    "train": {"inner_epochs": 1},
}


def many_rounds(bench: Bench) -> list[Result]:
    """``dvc repro`` where 40 rounds are up to date, and the seconds of the last rounds over those of the first."""
    count = ROUNDS if bench.sizes.repeats > 1 else QUICK_ROUNDS
    cost, seconds = up_to_date("graph", count, bench.sizes.repeats, 10.0 if count == ROUNDS else None)
    part = max(1, count // 8)
    later = median(seconds[-part:]) / median(seconds[1 : 1 + part])  # of the first, files are read for the first time
    flat = Result(
        "graph",
        f"seconds of a round: the last {part} of {count} over the first {part} after one",
        (later,),
        at_most(1.10) if count == ROUNDS else None,
        seconds={"rounds": tuple(seconds)},
    )
    return [cost, flat]


def very_many_rounds(bench: Bench) -> list[Result]:
    """``dvc repro`` where 300 rounds are up to date, once."""
    count = VERY_MANY if bench.sizes.repeats > 1 else QUICK_ROUNDS
    return [up_to_date("graph300", count, 1, 60.0 if count == VERY_MANY else None)[0]]


def up_to_date(gate: str, count: int, repeats: int, bar: float | None) -> tuple[Result, list[float]]:
    """What ``dvc repro`` costs where `count` rounds are up to date; the seconds of each round while they were made."""
    names = [f"r{k:02d}" for k in range(count)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clone(folder)
        rounds = {name: {"prev": before} for name, before in zip(names, ["init", *names], strict=False)}
        tiny_params(folder, rounds=rounds, **SMALL)
        seconds = timed_rounds(folder, names)
        for stage in ("code", "prompts"):
            call(folder, sys.executable, "-m", "stages", stage)
        call(folder, "dvc", "commit", "--force")  # takes the outputs for those of the pipeline, as they are
        wall, processor, ran = [], [], 0
        for _ in range(repeats):
            start, used = time.perf_counter(), processor_seconds()
            output = call(folder, "dvc", "repro")
            wall.append(time.perf_counter() - start)
            processor.append(processor_seconds() - used)
            ran += len(re.findall("Running stage", output))
    cost = Result(
        gate,
        f"seconds of the processor of dvc repro with {count} rounds up to date",
        tuple(processor),
        at_most(bar) if bar else None,
        (Check("stages that ran", ran, at_most(0)),),
        f"{5 + 7 * count} stages; {median(wall):.1f} s on the clock",
    )
    return cost, seconds


def cost_of_images(bench: Bench) -> list[Result]:
    """Seconds an image of a large round over those of a small one, on a model that costs next to nothing."""
    sizes = IMAGES if bench.sizes.repeats > 1 else QUICK_IMAGES
    each = []
    for images in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            tiny_params(
                folder,
                rounds={"r00": {"prev": "init"}},
                extract={"keep_kv": "none"},
                sample={"images_per_prompt": images // PROMPTS, "batch_size": 16},
                fuse={"batch_size": 8},
            )
            each.append(timed_rounds(folder, ["r00"], PYTHONPATH=str(ROOT))[0] / images)
    note = ", ".join(f"{1000 * one:.1f} ms an image at {images}" for one, images in zip(each, sizes, strict=True))
    return [
        Result(
            "images",
            f"cost of an image in a round of {sizes[1]} over one of {sizes[0]}",
            (each[1] / each[0],),
            at_most(1.10),
            note=note,
        )
    ]


def timed_rounds(folder: Path, names: list[str], **environment: str) -> list[float]:
    """Seconds of each round, run in one process."""
    output = call(folder, sys.executable, SCRIPT, *names, **environment)
    found = next(line for line in reversed(output.splitlines()) if line.startswith("{"))
    return list(json.loads(found).values())
