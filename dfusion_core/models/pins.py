"""Pins the weights of a run: `init` records their hashes, and every later stage compares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..runtime.collective import leader_first
from ..store.json_files import read_json
from ..store.remembered import hash_large
from .source import model_files, own_names

if TYPE_CHECKING:
    from ..params import Model
    from .source import Source

FILE = "pin.json"


def pin(model: Model, source: Source) -> dict[str, Any]:
    """The model's id, the commit it is from (null for local files), and the sha256 of every file that is read."""
    with leader_first():  # the first process hashes, the others read the cached hashes
        files = {name: hash_large(path) for name, path in model_files(model, source).items()}
    found = {"id": model.id, "revision": source.revision, "variant": model.variant, "files": files}
    return found | ({"vae_revision": source.vae.revision} if source.vae is not None else {})


def read_pin(adapter: Path | None) -> dict[str, Any] | None:
    """The pin beside an adapter of this pipeline; None for other adapters."""
    file = adapter.parent / FILE if adapter is not None else None
    return read_json(file, "revision", "files") if file is not None and file.exists() else None


def check_pin(pinned: dict[str, Any] | None, model: Model, source: Source) -> None:
    """Raise ModelError if the files are not those of the start of the run.

    Hashes are compared, not ids: folders may be moved, single files renamed, and mirrors used.
    """
    if pinned is None:
        return
    found = pin(model, source)["files"]
    if _by_role(found) == _by_role(pinned["files"]):
        return
    other = sorted(name for name in {*found, *pinned["files"]} if found.get(name) != pinned["files"].get(name))
    raise ModelError(
        f"model.id: '{model.id}' is not the model that this run began with: {', '.join(other[:3])}"
        f"{f' and {len(other) - 3} more' if len(other) > 3 else ''} differ from what init wrote down.",
        "Bring those files back, or begin anew with 'dvc repro -f -s init' and 'dvc repro'.",
    )


def _by_role(files: dict[str, str]) -> dict[str, str]:
    """The hashes by the role of the files, which follows from their names, except that of a single file."""
    own = own_names(files)
    return {"" if own == [name] else name: value for name, value in files.items()}
