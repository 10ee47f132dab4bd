"""The files of a folder, also behind links to folders."""

import os
from collections.abc import Iterator
from pathlib import Path


def files_in(folder: Path, follow: bool = True) -> Iterator[tuple[str, Path]]:
    """Every file below `folder` with its name below it, sorted.

    follow: whether links to folders are followed, except those to a parent.
    """
    found = []
    for inside, folders, names in os.walk(folder, followlinks=follow):
        here = Path(inside)
        folders[:] = [name for name in folders if not _leads_up(here / name)]
        found += [(path.relative_to(folder).as_posix(), path) for path in map(here.joinpath, names) if path.is_file()]
    return iter(sorted(found))


def _leads_up(path: Path) -> bool:
    return path.is_symlink() and Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(path))
