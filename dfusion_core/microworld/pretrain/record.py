"""Records of a training step for DVC: hashes of its files, and its figures."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from .settings import settings


def record(name: str, *folders: Path, **figures: float) -> None:
    """Write build/NAME.json: the sha256 of every file of the folders, and the figures measured at the end."""
    files = sorted(f for folder in folders for f in folder.rglob("*") if f.is_file())
    hashes = {f"{f.parent.name}/{f.name}": hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    folder = settings().build_folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"figures": figures, "files": hashes}, indent=2) + "\n")
