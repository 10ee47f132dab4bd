"""Which weights a run began with: `init` writes their hashes down, and every later stage compares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..store import scratch_root
from ..store.atomic import write_text
from ..store.json_files import read_json
from ..store.provenance import hash_file

if TYPE_CHECKING:
    from ..params import Model
    from .source import Source

FILE = "pin.json"
REMEMBERED = 64 * 2**20  # bytes; files this large are hashed once, and again only when their size or time has changed


def pin(model: Model, source: Source) -> dict[str, Any]:
    """The model's id, the commit it is from (null for local files), and the sha256 of every file that is read."""
    files = {name: _hash(source.path if source.is_single_file else source.path / name) for name in source.files}
    return {"id": model.id, "revision": source.revision, "variant": model.variant, "files": files}


def read_pin(adapter: Path | None) -> dict[str, Any] | None:
    """The pin that lies beside an adapter of this pipeline; None for one from elsewhere."""
    file = adapter.parent / FILE if adapter is not None else None
    return read_json(file, "revision", "files") if file is not None and file.exists() else None


def check_pin(pinned: dict[str, Any] | None, model: Model, source: Source) -> None:
    """Raise ModelError where the files are not those that the run began with; their names and places may differ.

    A folder may have moved and a mirror may be used: hashes decide, not ids.
    """
    if pinned is None:
        return
    found = pin(model, source)["files"]
    if set(found.values()) == set(pinned["files"].values()):
        return
    other = sorted(name for name in {*found, *pinned["files"]} if found.get(name) != pinned["files"].get(name))
    raise ModelError(
        f"model.id: '{model.id}' is not the model that this run began with: {', '.join(other[:3])}"
        f"{f' and {len(other) - 3} more' if len(other) > 3 else ''} differ from what init wrote down.",
        "Bring those files back, or begin anew with 'dvc repro -f -s init' and 'dvc repro'.")


def _hash(file: Path) -> str:
    """sha256 of a file; of a large one remembered in the scratch folder, by path, size and time of change."""
    state = file.stat()
    if state.st_size < REMEMBERED:
        return hash_file(file)
    memory, key = scratch_root() / "hashes.json", f"{file.resolve()} {state.st_size} {state.st_mtime_ns}"
    try:
        known: dict[str, str] = json.loads(memory.read_text())
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = hash_file(file)
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_text(memory, json.dumps(known, indent=1, sort_keys=True) + "\n")
    return known[key]
