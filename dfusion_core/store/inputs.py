"""What decides a stage's result, with the content of every input checked before it is trusted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import MissingStage
from .hints import how_to_make
from .manifest import MANIFEST, files_below, read_manifest
from .code import hash_code, require_noted
from .provenance import hash_file, hash_of
from .verify import require_sound


def ingredients(
    stage: str, round: str, params: Mapping[str, Any], inputs: Mapping[str, Path]
) -> dict[str, Any]:
    """Everything that decides a stage's result, as plain JSON; the fingerprint is its hash.

    Raises MissingStage if an input is not there, StoreError if it is damaged.
    """
    return {
        "stage": stage,
        "round": round,
        "params": dict(params),
        "inputs": {name: hash_input(stage, name, Path(path)) for name, path in sorted(inputs.items())},
        "code": hash_code(stage),
    }


def hash_input(stage: str, name: str, path: Path) -> str:
    """The digest of a published folder, whose files are all read and compared; the hash of a plain file or folder."""
    if (path / MANIFEST).is_file():
        require_sound(path)
        return str(read_manifest(path)["digest"])
    if path.is_dir() and not _is_output(path):
        return hash_of({name: hash_file(file) for name, file in files_below(path)})
    if path.is_file():
        return hash_file(path)
    missing = path / MANIFEST if path.is_dir() else path
    raise MissingStage(f"{stage}: its input '{name}' is missing: there is no {missing}.", how_to_make(path))


def _is_output(path: Path) -> bool:
    """Whether a path is `runs/<round>/<stage>`, which is nothing without its manifest."""
    return len(path.parts) == 3 and path.parts[0] == "runs"
