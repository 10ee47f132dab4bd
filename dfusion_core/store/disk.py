"""Full, read-only and failing disks: checks before writing, and their messages."""

import errno
import os
import shutil
from pathlib import Path

from ..errors import KEPT, MOVE, StoreError

FEWER = {  # key of params.yaml to lower so that a stage writes less
    "sample": "sample.images_per_prompt",
    "score": "sample.images_per_prompt",
    "extract": "sample.images_per_prompt",
    "kv": "extract.keep_kv",
    "fuse": "sample.images_per_prompt",
    "evaluate": "evaluate.images_per_prompt",
}


def existing(folder: Path) -> Path:
    """`folder`, or its nearest existing parent."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def device(folder: Path) -> int:
    """The disk on which `folder` is, or will be."""
    return existing(folder).stat().st_dev


def require_writable(folder: Path) -> None:
    """Raise OSError unless files can be made in `folder`, or the folder itself if it does not exist."""
    folder = existing(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        code = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(code, os.strerror(code), str(folder))


def require_space(stage: str, round: str, folder: Path, needed: int) -> None:
    """Raise StoreError unless the disk of `folder` has `needed` bytes free."""
    free = shutil.disk_usage(existing(folder)).free
    if needed > free:
        raise StoreError(
            f"{stage}: {round} needs {_size(needed)} more on the disk of {folder}, where {_size(free)} are free; "
            "it stops before it fills the disk.",
            f"Lower {FEWER.get(stage, 'the number of images')}, or: {MOVE[0].lower()}{MOVE[1:]} {KEPT}",
        )


def _size(count: int) -> str:
    """A readable number of bytes."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
