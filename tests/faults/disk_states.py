"""What lies on a disk, as a value; and what would lie there after a power failure."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from shim import WRITES, Step

AREAS = ("runs", "results", ".dfusion")  # what the pipeline writes
State = dict[str, bytes | None]  # a file's bytes, or None for a folder


def look() -> State:
    """Everything below the areas of the current folder."""
    found: State = {}
    for area in AREAS:
        for above, folders, files in os.walk(area):
            found |= {os.path.join(above, name): None for name in folders}
            found |= {os.path.join(above, name): Path(above, name).read_bytes() for name in files}
    return found


def put(state: State) -> None:
    """Make the areas of the current folder hold exactly this; a file that has its bytes already is not touched."""
    for area in AREAS:
        for path in sorted(Path(area).rglob("*"), reverse=True):
            if str(path) not in state:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for name in sorted(name for name, data in state.items() if data is None):
        os.makedirs(name, exist_ok=True)
    for name, data in state.items():
        path = Path(name)
        if data is not None and not (path.is_file() and path.read_bytes() == data):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # it may be another name of a file that is to stay
            path.write_bytes(data)


def published(state: State) -> State:
    """What a user sees: the files of runs and results that are not hidden."""
    return {
        name: data
        for name, data in state.items()
        if name.startswith(("runs/", "results/")) and data is not None and "/." not in name
    }


def output_of(name: str) -> str:
    """The thing that is to be whole or absent: the folder of a stage's output, or a file of results."""
    return "/".join(name.split("/")[:3]) if name.startswith("runs/") else name


def halves(state: State, before: State, after: State) -> list[str]:
    """Outputs that are neither absent nor whole: as they were before, or as they are at the end."""
    seen, wholes = published(state), (published(before), published(after))
    return [
        output
        for output in sorted({output_of(name) for name in seen})
        if _part(seen, output) not in [_part(whole, output) for whole in wholes]
    ]


def _part(state: State, output: str) -> State:
    return {name: data for name, data in state.items() if output_of(name) == output}


def digest(state: State) -> str:
    """Equal for equal states."""
    seen = hashlib.sha256()
    for name in sorted(state):
        data = state[name]
        seen.update(f"{name}\0{-1 if data is None else len(data)}\0".encode() + (data or b""))
    return seen.hexdigest()


def digest_of_file(path: Path) -> str:
    """sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Cache:
    """Which files and folders a disk may not have yet: written, but not synced. Feed it every step once it is done.

    The model: names change on the disk in the order of the calls, as with a journal; bytes reach it at a sync or never.
    """

    def __init__(self) -> None:
        self.files: set[str] = set()  # bytes that are not synced
        self.names: set[str] = set()  # names whose folder is not synced since they appeared

    def done(self, step: Step) -> None:
        """Take note of one operation that has happened."""
        if step.operation in WRITES or step.operation in ("open anew", "truncate"):
            self.files.add(step.path)
        if step.adds:
            self.names.add(step.path)
        if step.operation == "link" and step.adds and step.other in self.files:
            self.files.add(step.path)
        elif step.operation == "sync":
            self.files.discard(step.path)
            self.names = {name for name in self.names if os.path.dirname(name) != step.path}
        elif step.operation == "rename":
            self.files = set(_moved(self.files, step))
            self.names = {*_moved(self.names, step), step.other}
        elif step.operation in ("unlink", "rmdir"):
            self.files.discard(step.path)
            self.names.discard(step.path)

    def after_power_loss(self, state: State, kept: float) -> State:
        """`state`, but of bytes that were not synced only this share is there."""
        return {
            name: data[: int(len(data) * kept)] if data and name in self.files else data for name, data in state.items()
        }

    def unsafe(self, *folders: str) -> list[str]:
        """Files and names at or below the folders that a power failure could take."""
        return sorted(path for path in self.files | self.names if any(_below(path, folder) for folder in folders))


class Sizes:
    """What the sizes of files should be, from the operations that were seen. Feed it every step once it is done."""

    def __init__(self) -> None:
        self.of: dict[str, int | None] = {}  # None for a copy, which is asked for with more bytes than there are

    def done(self, step: Step) -> None:
        """Take note of one operation that has happened."""
        of = self.of
        if step.operation == "open anew" or step.operation == "truncate":
            of[step.path] = step.bytes
        elif step.operation == "write":
            of[step.path] = (of.get(step.path) or 0) + step.bytes
        elif step.operation == "copy":
            of[step.path] = None
        elif step.operation == "link" and step.adds:
            of[step.path] = of.get(step.other, 0)
        elif step.operation == "unlink":
            of.pop(step.path, None)
        elif step.operation == "rename":
            sizes = [size for path, size in of.items() if not _below(path, step.other)]
            self.of = dict(zip(_moved(of, step), sizes, strict=True))

    def unseen(self, before: State, after: State) -> list[str]:
        """New files whose bytes were not all seen on their way."""
        return [
            name
            for name, data in after.items()
            if data is not None and before.get(name) != data and self.of.get(name, -1) not in (None, len(data))
        ]


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _moved(paths: Iterable[str], step: Step) -> list[str]:
    """The paths after a rename; what was at the new name is gone."""
    kept = [path for path in paths if not _below(path, step.other)]
    return [step.other + path[len(step.path) :] if _below(path, step.path) else path for path in kept]
