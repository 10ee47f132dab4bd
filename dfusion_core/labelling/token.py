"""The secret token in the page's address; stored, so that the address stays valid after a restart."""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from ..store.atomic import make_folder
from ..store.scratch import scratch_root

FILE = "label-token"


def kept_token() -> str:
    """This project's token from the scratch folder, readable by this user only; created if there is none."""
    file: Path = scratch_root() / FILE
    with suppress(OSError, ValueError):
        known = file.read_text(encoding="ascii").strip()
        if re.fullmatch(r"[\w-]{20,}", known) and not file.stat().st_mode & 0o077:
            return known
    made = secrets.token_urlsafe(18)
    make_folder(file.parent)
    with suppress(FileNotFoundError):
        file.unlink()
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as opened:
        opened.write(f"{made}\n")
    return made
