"""Is a published folder what its manifest says it is?"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import StoreError
from .provenance import MANIFEST, files_below, hash_file, hash_of, how_to_make, read_manifest


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a published folder."""

    folder: Path
    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.folder} {self.file}: {self.what}. {how_to_make(self.folder)}".rstrip()


def verify(path: str | Path) -> list[Problem]:
    """Compare every file of every published folder at, above or below `path` with its manifest, byte by byte.

    Finds files that are missing, extra, of other size or content. Raises StoreError if there are none.
    """
    return [problem for folder in published_folders(Path(path)) for problem in check(folder, read=True)]


def check(folder: Path, read: bool) -> list[Problem]:
    """Problems of one folder; without `read` only names and sizes are compared, which is fast."""
    try:
        manifest = read_manifest(folder)
    except StoreError as error:
        return [Problem(folder, MANIFEST, error.message.rstrip("."))]
    listed, found = manifest["files"], dict(files_below(folder))
    problems = [Problem(folder, name, "is missing") for name in sorted(listed.keys() - found.keys())]
    problems += [
        Problem(folder, name, "is not in the manifest") for name in sorted(found.keys() - listed.keys())
    ]
    for name in sorted(listed.keys() & found.keys()):
        size = found[name].stat().st_size
        if size != listed[name]["size"]:
            problems.append(
                Problem(folder, name, f"has {size} bytes, the manifest says {listed[name]['size']}")
            )
        elif read and hash_file(found[name]) != listed[name]["sha256"]:
            problems.append(Problem(folder, name, "checksum differs: the file is damaged"))
    if read and manifest["digest"] != hash_of({name: entry["sha256"] for name, entry in listed.items()}):
        problems.append(Problem(folder, MANIFEST, "its digest does not fit its list of files"))
    return problems


def published_folders(path: Path) -> list[Path]:
    """The published folder that `path` is or lies in, or all below it; `path` may leave out `runs/`.

    Raises StoreError if there is none.
    """
    for candidate in (path, Path("runs", path)):
        for folder in (candidate, *candidate.parents):
            if (folder / MANIFEST).is_file():
                return [folder]
        below = sorted(_visible_manifests(candidate))
        if below:
            return below
    raise StoreError(f"store: there is no published output at {path}.", how_to_make(path))


def _visible_manifests(path: Path) -> Iterator[Path]:
    for manifest in path.rglob(MANIFEST):
        if not any(part.startswith(".") for part in manifest.relative_to(path).parts):
            yield manifest.parent
