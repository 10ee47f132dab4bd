"""Cached hashes of large files."""

import json
from pathlib import Path

from .atomic import write_text
from .provenance import hash_file
from .scratch import scratch_root

LARGE = 64 * 2**20  # bytes; smaller files are hashed every time


def hash_large(file: Path) -> str:
    """sha256 of a file; of an unchanged large one from the cache in the scratch folder.

    A file is unchanged if path, size, inode, mtime and ctime are the same; every write sets the ctime, which cannot be
    reset. A bit error without a write is detected only when the file is hashed again.
    """
    state = file.stat()
    if state.st_size < LARGE:
        return hash_file(file)
    memory = scratch_root() / "hashes.json"
    key = f"{file.resolve()} {state.st_size} {state.st_ino} {state.st_mtime_ns} {state.st_ctime_ns}"
    if (known := _read(memory).get(key)) is not None:
        return known
    found = hash_file(file)
    kept = {name: sha for name, sha in _read(memory).items() if not name.startswith(f"{file.resolve()} ")}
    write_text(memory, json.dumps({**kept, key: found}, indent=1, sort_keys=True) + "\n")
    return found


def _read(memory: Path) -> dict[str, str]:
    try:
        found = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
