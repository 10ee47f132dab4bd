"""Atomic files: complete or absent, also after a kill or a power failure."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`: a temporary name of this process, fsync, one rename, fsync of the folder."""
    make_folder(path.parent)
    _remove_abandoned(path)
    temporary = path.with_name(f".{path.name}.{_this_host()}-{os.getpid()}.tmp")
    try:
        with named(path), temporary.open("wb") as file:
            file.write(data)
            file.flush()
            _fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # a full disk or Ctrl-C: remove the incomplete file
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Add this path to an OSError without one, such as that of a write to an open file."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def make_folder(path: Path) -> None:
    """Make `path` and its missing parents, and sync them."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync(folder.parent)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of killed processes below `folder`, in which no other process writes."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Delete the temporary files of `path` whose processes on this host are dead."""
    for temporary in path.parent.glob(f".{escape(path.name)}.{_this_host()}-*.tmp"):
        number = temporary.name.removesuffix(".tmp").rpartition("-")[2]
        if number.isdecimal() and not _lives(int(number)):
            temporary.unlink(missing_ok=True)


def _this_host() -> str:
    """A short name of this host, because process numbers are per host."""
    return hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:8]


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:  # of another user's process: no permission
        return error.errno != errno.ESRCH
    return True


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, text.encode())


def sync(path: Path) -> None:
    """fsync one file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync(descriptor: int) -> None:
    """fsync, if the file system supports it for this kind of file."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below `folder`, and `folder` itself."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def remove_folder(folder: Path) -> None:
    """Delete `folder`, after renaming it, so that a kill leaves no incomplete folder of that name."""
    doomed = folder.with_name(f".{folder.name}.deleted")
    shutil.rmtree(doomed, ignore_errors=True)  # of a killed process
    if folder.exists():
        os.rename(folder, doomed)
        shutil.rmtree(doomed)
