"""Verification of published folders against their manifests."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StoreError, one_printable_line, printable
from ..runtime import ranks
from . import dvc_lock
from .files import files_in
from .hints import how_to_make, how_to_mend, is_place_of_output
from .manifest import MANIFEST, files_below, read_manifest
from .provenance import hash_file

_SOUND: set[Hashable] = set()  # folders that this process has read completely, with sizes and times


@dataclass(frozen=True)
class Problem:
    """A difference between a published folder and its manifest."""

    folder: Path
    file: str
    what: str
    mend: str = ""  # where it is not that of every damage

    def __str__(self) -> str:
        mend = self.mend or how_to_mend(self.folder)
        return printable(f"{self.folder} {self.file}: {self.what}. {mend}".rstrip()).replace("\n", r"\n")


def verify(path: str | Path) -> list[Problem]:
    """Compare every file of every published folder at, above or below `path` with its manifest, byte by byte, and the
    manifest with dvc.lock, if it exists.

    Finds files that are missing, extra, unreadable, of other size or content, and outputs that DVC has recorded for
    other parameters or inputs than made them. Raises StoreError if there are none.
    """
    return [problem for folder in published_folders(Path(path)) for problem in verify_one(folder)]


def verify_one(folder: Path) -> list[Problem]:
    """`verify` of one published folder."""
    return check(folder, read=True) or [
        Problem(folder, MANIFEST, what, dvc_lock.mend(folder)) for what in dvc_lock.disagreements(folder)
    ]


def check(folder: Path, read: bool) -> list[Problem]:
    """Problems of one folder; without `read` only the manifest, names and sizes are checked, which is fast."""
    if not (folder / MANIFEST).is_file():
        return [Problem(folder, MANIFEST, "is missing")]
    try:
        listed = read_manifest(folder)["files"]
    except StoreError as error:
        what = error.message.removeprefix(f"store: {folder / MANIFEST} ").rstrip(".")
        return [Problem(folder, MANIFEST, what)]
    found = dict(files_below(folder))
    problems = [Problem(folder, name, "is missing") for name in sorted(listed.keys() - found.keys())]
    problems += [Problem(folder, name, "is not in the manifest") for name in sorted(found.keys() - listed.keys())]
    for name in sorted(listed.keys() & found.keys()):
        what = difference(found[name], listed[name], read)
        if what:
            problems.append(Problem(folder, name, what))
    return problems


def difference(file: Path, entry: dict[str, Any], read: bool = True) -> str:
    """The difference of a file from its entry in the manifest, in words; empty if there is none."""
    try:
        size = file.stat().st_size
        if size != entry["size"]:
            return f"has {size} bytes, the manifest says {entry['size']}"
        return "checksum differs: the file is damaged" if read and hash_file(file) != entry["sha256"] else ""
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def require_sound(folder: Path) -> None:
    """Raise StoreError unless every file of a published folder has the hash in its manifest.

    A folder is read once per process, and again if a name, size or time in it has changed. Of several
    processes of a stage the leader reads, and the others wait for it.
    """
    look = _look(folder)
    if look not in _SOUND:
        problems = check(folder, read=ranks.leads())
        if problems:
            raise damaged(problems)
        _SOUND.add(look)


def damaged(problems: list[Problem]) -> StoreError:
    """The first of a folder's problems as an error."""
    first, more = problems[0], len(problems) - 1
    rest = f" ({more} more: 'dfusion verify {first.folder}')" if more else ""
    where = one_printable_line(str(first.folder / first.file))
    return StoreError(f"store: {where} {first.what}{rest}.", how_to_mend(first.folder))


def _look(folder: Path) -> Hashable:
    """Sizes and times of a folder's files."""
    states = ((name, path.stat()) for name, path in files_in(folder))
    return folder.resolve(), tuple((name, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in states)


def published_folders(path: Path) -> list[Path]:
    """The published folder that `path` is or lies in, or all below it; `path` may leave out `runs/`.

    Raises StoreError if there is none.
    """
    for candidate in (path, Path("runs", path)):
        for folder in (candidate, *candidate.parents):
            if _holds_output(folder):
                return [folder]
        below = sorted(_outputs_below(candidate))
        if below:
            return below
    raise StoreError(
        f"store: there is no published output at {path}.",
        how_to_make(path) or "Name an output or a folder with some, as runs; 'dvc repro' makes them.",
    )


def _outputs_below(path: Path) -> Iterator[Path]:
    for folder in (one for one in path.rglob("*") if one.is_dir()):
        if not any(part.startswith(".") for part in folder.relative_to(path).parts) and _holds_output(folder):
            yield folder


def _holds_output(folder: Path) -> bool:
    """Whether it has a manifest, or has lost it: it has the name `runs/<round>/<stage>` and contains files."""
    return (folder / MANIFEST).is_file() or is_place_of_output(folder) and folder.is_dir() and any(files_below(folder))
