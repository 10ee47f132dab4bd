"""Check of DVC's cache: every object against its name, an md5.

DVC does not hash a write-protected file in its cache again if its modification time is unchanged. It restores damaged
files, and links new outputs to them.
"""

import hashlib
import re
from pathlib import Path
from shlex import quote

from .hints import command, has_remote
from .verify import Problem

OBJECTS = Path("files", "md5")


def is_cache(path: Path) -> bool:
    """Whether this is the folder of a DVC cache, as `.dvc/cache`."""
    return (path / OBJECTS).is_dir()


def check_cache(cache: Path) -> list[Problem]:
    """The objects whose content does not fit their name."""
    fetched = "'dvc pull' fetches it, or " if has_remote() else ""
    return [
        Problem(
            cache,
            file.relative_to(cache).as_posix(),
            f"checksum differs: the file is damaged. Delete it with {command(f'rm -f {quote(str(file))}')}; then "
            f"{fetched}'dvc repro -f -s STAGE' makes it again",
        )
        for file in sorted((cache / OBJECTS).glob("??/*"))
        if re.fullmatch("[0-9a-f]{30}([.]dir)?", file.name) and _md5(file) != file.parent.name + file.name[:30]
    ]


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
