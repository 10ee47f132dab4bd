"""The manifest of a published output: its files, and everything that their content depends on."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import StoreError
from .files import files_in
from .hints import how_to_mend
from .provenance import hash_of
from .schema import FORMAT_VERSION, OLDEST_VERSION

MANIFEST = "manifest.json"
PRUNED = "pruned"  # files that `dfusion prune` deleted; the digest still covers them
KEYS = {"digest", "environment", "files", "fingerprint", "ingredients", "rows"}


def files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below `folder` but the manifest, as (path relative to the folder, path), in sorted order.

    DVC links single files into its cache; links to folders are not DVC's and are not followed.
    """
    return ((name, path) for name, path in files_in(folder, follow=False) if name != MANIFEST)


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """`manifest` with a checksum of the other entries."""
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return {**rest, "checksum": hash_of(rest)}


def content_digest(files: Mapping[str, Any]) -> str:
    """The digest of an output for later stages: sha256 over names and hashes of its files."""
    return hash_of({name: entry["sha256"] for name, entry in files.items()})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a published folder. Raises StoreError if it is unreadable, damaged, or of another version,
    round or stage."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"store: {path} cannot be read: {error}.", how_to_mend(folder)) from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if type(version) is int and not OLDEST_VERSION <= version <= FORMAT_VERSION:
        raise _other_version(path, version)
    if version is None or not manifest.keys() >= KEYS:
        raise StoreError(f"store: {path} is not a manifest of this program.", how_to_mend(folder))
    if not _is_whole(manifest):
        raise StoreError(f"store: {path} is damaged: its checksum differs.", how_to_mend(folder))
    if not _is_in_place(folder, manifest["ingredients"]):
        made = manifest["ingredients"]
        raise StoreError(f"store: {path} is that of {made['stage']} of {made['round']}.", how_to_mend(folder))
    return dict(manifest)


def _is_in_place(folder: Path, made: Mapping[str, Any]) -> bool:
    """Whether `runs/<round>/<stage>` holds an output of that round and stage; true for a folder of another name."""
    place = re.fullmatch(r"(?:.*/)?runs/(r\d{2,6}|init)/(\w+)", folder.absolute().as_posix())
    return place is None or place.groups() == (made["round"], "train" if made["stage"] == "init" else made["stage"])


def _is_whole(manifest: dict[str, Any]) -> bool:
    """Whether the hashes in a manifest are right. Version 1 has no checksum."""
    try:
        return (
            ("checksum" not in manifest and manifest["format_version"] == 1 or sealed(manifest) == manifest)
            and manifest["fingerprint"] == hash_of(manifest["ingredients"])
            and manifest["digest"] == content_digest({**manifest["files"], **manifest.get(PRUNED, {})})
            and all(type(entry["size"]) is int for entry in manifest["files"].values())
            and type(manifest["rows"]) is int
            and isinstance(manifest["ingredients"]["stage"], str)
            and isinstance(manifest["ingredients"]["round"], str)
            and isinstance(manifest["ingredients"]["inputs"], dict)
            and isinstance(manifest["ingredients"]["params"], dict)
        )
    except (AttributeError, KeyError, TypeError, ValueError):  # malformed entries; a NaN
        return False


def _other_version(path: Path, version: int) -> StoreError:
    readable = " and ".join(map(str, range(OLDEST_VERSION, FORMAT_VERSION + 1)))
    newer = ", and a newer dfusion reads it" if version > FORMAT_VERSION else ""
    message = f"store: {path} has format_version {version}; this program reads {readable}{newer}."
    return StoreError(message, how_to_mend(path.parent))
