"""Digests of a stage's inputs. Published outputs are compared with their manifests first."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

from ..errors import MissingStage
from .derived import Derived
from .files import files_in
from .hints import how_to_make
from .manifest import MANIFEST, read_manifest
from .provenance import hash_of
from .remembered import hash_large
from .verify import require_sound

# A published folder, a file, a folder that is read whole, the files that are read, or a part of a file.
Input = Path | Sequence[Path] | Derived

_HASHED: dict[Hashable, str] = {}  # what this process has read, with size and times


def hash_inputs(stage: str, inputs: Mapping[str, Input]) -> dict[str, str]:
    """A digest of the content of each input. Raises MissingStage if one does not exist, StoreError if it is damaged."""
    return {name: _hash_input(stage, name, one) for name, one in sorted(inputs.items())}


def published(inputs: Mapping[str, Input]) -> dict[str, Path]:
    """The inputs that are outputs of other stages."""
    return {name: one for name, one in inputs.items() if isinstance(one, Path) and (one / MANIFEST).is_file()}


def _hash_input(stage: str, name: str, one: Input) -> str:
    """The digest of a published folder, after all its files are verified; of files a hash of names and contents."""
    if isinstance(one, Derived):
        return one.digest()
    if not isinstance(one, Path):
        return _hash_files(_named(one))
    if (one / MANIFEST).is_file():
        require_sound(one)
        return str(read_manifest(one)["digest"])
    if one.is_dir() and not _is_output(one):
        return _hash_files(dict(files_in(one)))
    if one.is_file():
        return _hash_files({"": one})
    missing = one / MANIFEST if one.is_dir() else one
    raise MissingStage(f"{stage}: its input '{name}' is missing: there is no {missing}.", how_to_make(one))


def _hash_files(files: Mapping[str, Path]) -> str:
    """The sha256 of one unnamed file, else a hash of names and sha256s. Unchanged files are read once."""
    look = tuple((name, path.resolve(), _look(path)) for name, path in sorted(files.items()))
    if look not in _HASHED:
        sums = {name: hash_large(path) for name, path in files.items()}
        _HASHED[look] = sums[""] if set(sums) == {""} else hash_of(sums)
    return _HASHED[look]


def _look(path: Path) -> Hashable:
    """Size, inode and times of a file. Its ctime is set by every write, and cannot be reset."""
    state = path.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _named(files: Sequence[Path]) -> dict[str, Path]:
    """Files by their names below the folder that holds all of them, so that the folder may move."""
    absolute = [Path(os.path.abspath(file)) for file in files]
    folder = os.path.commonpath([file.parent for file in absolute]) if absolute else ""
    return {file.relative_to(folder).as_posix(): file for file in absolute}


def _is_output(path: Path) -> bool:
    """Whether a path is `runs/<round>/<stage>`, which requires a manifest."""
    return len(path.parts) == 3 and path.parts[0] == "runs"
