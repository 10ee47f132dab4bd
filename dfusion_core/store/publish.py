"""From finished parts to a published folder: Zarr arrays, the manifest, one rename."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import atomic
from .manifest import MANIFEST, content_digest, files_below, sealed
from .parts import Parts
from .provenance import environment, hash_file
from .schema import FORMAT_VERSION, find_array, shard_rows

ARRAYS = "arrays.zarr"
# Another disk or mount; a file system without hard links, or with a limit of links.
NO_LINKS = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def assemble(parts: Parts, folder: Path) -> None:
    """Write every array of `parts` into `folder`/arrays.zarr: one writer, shards of rows, one chunk per row.

    Arrays are not compressed (latents are incompressible), every chunk has a crc32c, and chunks of zeros are written
    too, because a missing chunk reads as zeros. Equal parts give equal bytes.
    """
    target = folder / ARRAYS
    atomic.remove_folder(target)
    names = parts.names()
    if not names:
        return
    import zarr

    group = zarr.create_group(
        target,
        zarr_format=3,
        attributes={"format_version": FORMAT_VERSION, "stage": parts.stage, "round": parts.round},
    )
    for name in names:
        _write_array(group, parts, name)


def _write_array(group: Any, parts: Parts, name: str) -> None:
    from zarr.codecs import Crc32cCodec

    *above, leaf = name.split("/")
    for level in above:
        group = group.require_group(level)
    declared = find_array(parts.stage, name)
    row_shape = parts.read(name, parts.ranges[0]).shape[1:]
    row_bytes = int(np.prod(row_shape)) * np.dtype(declared.dtype).itemsize
    rows_each = shard_rows(parts.count, row_bytes)
    array = group.create_array(
        leaf,
        shape=(parts.count, *row_shape),
        dtype=declared.dtype,
        chunks=(1, *row_shape),
        shards=(rows_each, *row_shape),
        compressors=[Crc32cCodec()],
        fill_value=0,
        dimension_names=declared.dims,
        attributes={"unit": declared.unit, "long_name": declared.about, "format_version": FORMAT_VERSION},
        config={"write_empty_chunks": True},
    )
    for start in range(0, parts.count, rows_each):
        stop = min(start + rows_each, parts.count)
        array[start:stop] = parts.read(name, range(start, stop))


def write_manifest(folder: Path, fingerprint: str, ingredients: Mapping[str, Any], rows: int) -> None:
    """Write the manifest: every file with size and hash, and everything that the content depends on.

    It has no times, hosts or absolute paths. `digest` covers the content only, so that later stages do not run again
    if a stage makes the same files again.
    """
    files = {name: {"sha256": hash_file(path), "size": path.stat().st_size} for name, path in files_below(folder)}
    manifest = {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "ingredients": dict(ingredients),
        "rows": rows,
        "files": files,
        "digest": content_digest(files),
        "environment": environment(),
    }
    atomic.write_text(folder / MANIFEST, json.dumps(sealed(manifest), indent=1, sort_keys=True) + "\n")


def publish(folder: Path, target: Path) -> None:
    """Publish a copy of `folder` as `target` by one rename; an existing target is moved aside and deleted.

    On the same disk the copy consists of hard links and takes no space; otherwise files are copied beside the target
    first.
    """
    atomic.make_folder(target.parent)
    try:
        _publish(folder, target, folder.parent, os.link)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.rmtree(_aside(target, folder.parent)[0], ignore_errors=True)
        _publish(folder, target, target.parent, shutil.copyfile)


def _publish(folder: Path, target: Path, beside: Path, copy_file: Callable[[Path, Path], object]) -> None:
    new, old = _aside(target, beside)
    _copy(folder, new, copy_file)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(new, target)
    atomic.sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def clean(target: Path) -> None:
    """Remove leftovers of a killed `publish` beside `target`."""
    for path in _aside(target, target.parent):
        shutil.rmtree(path, ignore_errors=True)


def _aside(target: Path, folder: Path) -> tuple[Path, Path]:
    """Temporary names of the new and the old output."""
    return folder / f".{target.name}.new", folder / f".{target.name}.old"


def _copy(folder: Path, to: Path, copy_file: Callable[[Path, Path], object]) -> None:
    """Everything below `folder` as `to`, synced."""
    shutil.rmtree(to, ignore_errors=True)
    try:
        to.mkdir()
        for path in sorted(folder.rglob("*")):
            target = to / path.relative_to(folder)
            with atomic.named(target):
                target.mkdir() if path.is_dir() else copy_file(path, target)
        atomic.sync_tree(to)
    except BaseException:  # do not leave a full disk fuller
        shutil.rmtree(to, ignore_errors=True)
        raise
