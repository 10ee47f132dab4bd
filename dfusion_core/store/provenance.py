"""Where a result comes from: hashes of inputs and code, the fingerprint made of them, versions of libraries.

A fingerprint holds no time, host or absolute path, so that the same work has the same fingerprint everywhere.
"""

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..errors import MissingStage, StoreError
from .closure import PACKAGE, code_of
from .schema import WRITTEN_BY

MANIFEST = "manifest.json"
LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "open_clip_torch",
    "safetensors",
    "zarr",
    "numpy",
    "pandas",
)


def canonical(value: Any) -> bytes:
    """`value` as JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def hash_of(value: Any) -> str:
    """sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value)).hexdigest()


def hash_file(path: Path) -> str:
    """sha256 of the bytes of the file at `path`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below `folder` but the manifest, as (path relative to the folder, path), in sorted order."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return ((name, folder / name) for name in names if name != MANIFEST)


def ingredients(
    stage: str, round: str, params: Mapping[str, Any], inputs: Mapping[str, Path]
) -> dict[str, Any]:
    """Everything that decides a stage's result, as plain JSON; the fingerprint is its hash.

    Raises MissingStage if an input is not there.
    """
    return {
        "stage": stage,
        "round": round,
        "params": dict(params),
        "inputs": {name: hash_input(stage, name, Path(path)) for name, path in sorted(inputs.items())},
        "code": hash_code(stage),
    }


def hash_input(stage: str, name: str, path: Path) -> str:
    """The digest in the manifest of a published folder, or the hash of a plain file or folder."""
    if (path / MANIFEST).is_file():
        return str(read_manifest(path)["digest"])
    if path.is_dir():
        return hash_of({name: hash_file(file) for name, file in files_below(path)})
    if path.is_file():
        return hash_file(path)
    raise MissingStage(f"{stage}: its input '{name}' is missing: there is no {path}.", how_to_make(path))


def how_to_make(path: Path) -> str:
    """The command that writes `runs/<round>/<stage>`, as a hint; empty for a path of another kind."""
    parts = path.parts[path.parts.index("runs") + 1 :] if "runs" in path.parts else ()
    if parts[:1] == ("init",):
        return f"Make it with 'dvc repro -s {'evaluate_base' if 'evaluate' in parts else 'init'}'."
    if len(parts) >= 2:
        stage = WRITTEN_BY.get(parts[1], parts[1])
        return f"Make it with 'dvc repro -s {stage}@{parts[0]}', or fetch it with 'dvc pull'."
    return ""


def hash_code(stage: str) -> dict[str, str]:
    """sha256 of the stage's own file and of every module of the package that it imports."""
    own = PACKAGE.parent / "stages" / f"{WRITTEN_BY.get(stage, stage)}.py"
    files = code_of(own) if own.is_file() else []
    return {path.relative_to(PACKAGE.parent).as_posix(): hash_file(path) for path in files}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a published folder. Raises StoreError if it cannot be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"store: {folder / MANIFEST} cannot be read: {error}.", how_to_make(folder)
        ) from error
    if (
        not isinstance(manifest, dict)
        or not {"digest", "files", "fingerprint", "ingredients"} <= manifest.keys()
    ):
        raise StoreError(
            f"store: {folder / MANIFEST} is not a manifest of this program.", how_to_make(folder)
        )
    return manifest


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two sets of ingredients, in words: parameters, inputs and code files."""
    return [
        *(
            _parameter_change(key, *pair)
            for key, pair in _differing(_flat(old.get("params")), _flat(new.get("params")))
        ),
        *(
            f"the input '{key}' changed"
            for key, _ in _differing(old.get("inputs", {}), new.get("inputs", {}))
        ),
        *(f"the code {key} changed" for key, _ in _differing(old.get("code", {}), new.get("code", {}))),
    ]


def environment() -> dict[str, str]:
    """Versions of Python and of the libraries that decide numbers, without importing any of them."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _parameter_change(key: str, old: Any, new: Any) -> str:
    return f"{key} changed from {_shown(old)} to {_shown(new)}"


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            yield key, (old.get(key), new.get(key))


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value} if prefix else {}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat
