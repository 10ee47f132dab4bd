"""The outputs of a finished cell, in a folder or in DVC."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd


@dataclass(frozen=True)
class Outputs:
    """The rounds of a cell, from the first to the last, and a function that reads a file of it as text."""

    rounds: list[str]
    read: Callable[[Path], str]

    def table(self, path: Path) -> pd.DataFrame:
        """A CSV file of it."""
        return pd.read_csv(io.StringIO(self.read(path)))
