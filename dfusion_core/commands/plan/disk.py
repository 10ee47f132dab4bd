"""Bytes on disk, from the schema: every array is rows times the product of its dimensions."""

from __future__ import annotations

import configparser
import shutil
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from ...store.schema import ARRAYS, find_array

if TYPE_CHECKING:
    from ...params.sections import Everything
    from .costs import Costs
    from .workload import Workload

WIDTHS = {"float32": 4, "float16": 2, "bool": 1, "uint8": 1}
ADAPTER_COPIES = 3  # the adapter and AdamW's two moments, all fp32


@dataclass(frozen=True)
class Disk:
    """Bytes of a run. Keys and values are separate: they are large and optional. ``copies`` is 2 if
    DVC keeps a second copy."""

    stages: dict[str, int]  # of a round, in runs/
    of_reference: int  # keys and values of one reference
    copies: int
    free: int

    def of_round(self, kept: int) -> int:
        """Bytes of a round with ``kept`` stored references."""
        return self.copies * (sum(self.stages.values()) + kept * self.of_reference)

    def need(self, rounds: int, kept: int) -> int:
        """A whole run: the rounds, the evaluation of the base model, and the largest stage a second time, because its
        parts exist beside the output while it is published."""
        largest = max(*self.stages.values(), kept * self.of_reference)
        return rounds * self.of_round(kept) + self.copies * self.stages["evaluate"] + largest


def count_disk(work: Workload, costs: Costs, params: Everything) -> Disk:
    """Bytes of every stage with arrays, and the free space. Tables are not counted."""
    rows = {
        "sample": work.images,
        "score": work.images,
        "extract": work.references,
        "fuse": work.targets,
        "evaluate": work.evaluated,
    }
    sizes = costs.sizes | {"item": work.items}
    stages = {
        stage: rows[stage]
        * sum(prod(sizes[dim] for dim in array.dims[1:]) * WIDTHS[array.dtype] for array in ARRAYS.get(stage, ()))
        for stage in rows
    }
    stages["train"] = ADAPTER_COPIES * costs.adapter_parameters * WIDTHS["float32"]
    window = params.fuse.first_t - params.fuse.last_t + 1
    of_reference = costs.architecture.halves * window  # rows of a reference, in each half of guidance
    reference = sum(
        of_reference * prod(shape) * WIDTHS[find_array("kv", name).dtype] for name, shape in costs.kv.items()
    )
    return Disk(stages, reference, dvc_copies(Path(".dvc")), shutil.disk_usage(".").free)


def dvc_copies(folder: Path) -> int:
    """Copies of an output on the disk: one if the workspace is linked to DVC's cache, else two."""
    if not folder.is_dir():
        return 1
    config = configparser.ConfigParser()
    config.read([folder / "config", folder / "config.local"])
    kind = config.get("cache", "type", fallback="copy").strip("'\"")
    return 1 if kind.split(",")[0].strip() in ("hardlink", "symlink") else 2
