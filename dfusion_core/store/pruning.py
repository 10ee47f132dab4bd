"""Deleting large arrays of outputs; what later rounds, the report and exports read stays.

A pruned output is published again by one rename. Its manifest has the hashes of the deleted files, so that its digest
is still the one that the outputs made of it have recorded.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import atomic
from .manifest import MANIFEST, PRUNED, read_manifest, sealed
from .paths import output
from .publish import ARRAYS, NO_LINKS, publish
from .scratch import scratch_root

# The arrays of a finished round that are not needed; None: every array.
SPARE: dict[str, tuple[str, ...] | None] = {
    "sample": ("x", "log_prob", "cross_map"),
    "extract": ("item_mask",),
    "kv": None,
    "fuse": ("x",),
}
Files = Mapping[str, Mapping[str, Any]]


def spare_files(stage: str, round: str) -> Files:
    """The files that pruning would delete, with their sizes. Raises StoreError for a damaged manifest."""
    names = SPARE[stage]
    files: Files = read_manifest(output(stage, round))["files"]
    if names is None:
        return {
            name: entry
            for name, entry in files.items()
            if name.startswith(f"{ARRAYS}/") and name != f"{ARRAYS}/zarr.json"
        }
    return {
        name: entry for name, entry in files.items() if name.startswith(tuple(f"{ARRAYS}/{array}/" for array in names))
    }


def prune_output(stage: str, round: str) -> None:
    """Replace the output by one without its spare files."""
    folder, gone = output(stage, round), spare_files(stage, round)
    manifest = read_manifest(folder)
    manifest |= {
        "files": {name: entry for name, entry in manifest["files"].items() if name not in gone},
        PRUNED: {**manifest.get(PRUNED, {}), **gone},
    }
    made = scratch_root() / "pruning" / round / stage
    atomic.remove_folder(made)
    for name in manifest["files"]:
        target = made / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(folder / name, target)
    atomic.write_text(made / MANIFEST, json.dumps(sealed(manifest), indent=1, sort_keys=True) + "\n")
    publish(made, folder)
    atomic.remove_folder(made)


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(file, target)
