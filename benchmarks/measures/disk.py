"""P14: bytes that a round leaves on disk and bytes that are written for it."""

from __future__ import annotations

import contextlib
import tempfile
from math import prod
from pathlib import Path

import numpy as np
import torch

from dfusion_core.commands.plan.costs import Costs, count_costs
from dfusion_core.commands.plan.disk import WIDTHS, count_disk
from dfusion_core.commands.plan.workload import Workload, workload
from dfusion_core.commands.profile import fill
from dfusion_core.params import load_everything
from dfusion_core.store import open_stage
from dfusion_core.store.schema import ARRAYS

from ..bench import Bench
from ..result import Result, at_most

GB = 1e9
COPY = "somebody/stable-diffusion-2-1-base"  # a name that says which architecture; nothing is looked up
ROWS, BATCH = 8, 4
COUNTERS = Path("/proc/self/io")


def disk(bench: Bench) -> list[Result]:
    """P14, for the round of the paper at SD 2.1's size."""
    costs, work, kept, of_reference = paper_round("sd21-24gb")
    pictures = (work.images + work.targets) * picture_bytes(costs)
    arrays = (sum(kept[stage] for stage in ("sample", "score", "extract", "fuse", "train")) - pictures) / GB
    stored = paper_round("sd21")
    copies, bar = times_written(costs, work.items), at_most(1.5)
    return [
        Result(
            "P14",
            "GB that a paper-size round leaves beside its pictures",
            (arrays,),
            bar,
            note=f"{pictures / GB:.2f} GB of raw pictures, {kept['evaluate'] / GB:.2f} GB of evaluation",
        ),
        Result(
            "P14", "GB of keys and values on disk, profile sd21-24gb", (work.kept_kv * of_reference / GB,), at_most(0)
        ),
        Result(
            "P14",
            "GB of keys and values on disk, profile sd21",
            (stored[1].kept_kv * stored[3] / GB,),
            at_most(0),
            note=f"extract.keep_kv keeps {stored[1].kept_kv} references to look at",
        ),
        Result(
            "P14",
            "GB written for what it leaves, before DVC's cache",
            () if copies is None else (copies * arrays,),
            bar,
            note="/proc/self/io is needed"
            if copies is None
            else f"{copies:.3f} bytes written for a byte left: finished rows first, then the Zarr array",
        ),
    ]


def paper_round(profile: str) -> tuple[Costs, Workload, dict[str, int], int]:
    """Costs, work, bytes each stage leaves, and bytes of one reference's keys and values, of a profile's round."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "params.yaml")
        file.write_text(fill(profile, COPY).text)
        params = load_everything(file)
    costs, work = count_costs(params, torch.float16), workload(params)
    found = count_disk(work, costs, params)
    return costs, work, found.stages, found.of_reference


def picture_bytes(costs: Costs) -> int:
    """Of one picture, uncompressed."""
    return costs.sizes["row"] * costs.sizes["column"] * costs.sizes["rgb"]


def times_written(costs: Costs, items: int) -> float | None:
    """Bytes that the store writes for each that stays, on paper-size rows of ``sample``; None where nothing counts."""
    if not COUNTERS.exists():
        return None
    sizes = costs.sizes | {"item": items}
    rows = {
        array.name: np.ones((BATCH, *(sizes[dim] for dim in array.dims[1:])), array.dtype) for array in ARRAYS["sample"]
    }
    left = ROWS * sum(prod(values.shape[1:]) * WIDTHS[str(values.dtype)] for values in rows.values())
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        before = written()
        with open_stage("sample", round="r00") as run:
            for part in run.expect(ROWS, BATCH):
                run.write_arrays(part, rows)
        return (written() - before) / left


def written() -> int:
    """Bytes that this process has handed to the system to write."""
    return int(dict(line.split(": ") for line in COUNTERS.read_text().splitlines())["wchar"])
