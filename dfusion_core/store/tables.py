"""Types of the columns of published tables, which are checked when a table is read.

Other tables and columns are read as pandas reads them.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import StoreError, one_line, short
from .hints import how_to_mend

if TYPE_CHECKING:
    import pandas as pd

TEXTS = ("prompt", "split", "round", "winner_stage", "loser_stage")
FLAGS = ("adopted", "empty_mask")
COUNTS = (
    "image",
    "pair",
    "reference",
    "prompt_id",
    "sample",
    "seed",
    "base_seed",
    "twin_seed",
    "reference_image",
    "base_image",
    "winner_row",
    "loser_row",
)
NUMBERS = (
    "reward",
    "reference_reward",
    "base_reward",
    "winner_reward",
    "loser_reward",
    "target_reward",
    "diversity",
    "right",
    "oracle_log_prob",
)

PAIRS = (
    "pair",
    "reference",
    "reference_image",
    "base_image",
    "base_seed",
    "prompt_id",
    "prompt",
    "reference_reward",
    "base_reward",
)
TWINS = ("pair", "image", "prompt_id", "prompt", "seed", "twin_seed")
TARGETS = ("pair", "prompt_id", "prompt", "target_reward", "adopted")
TRAINING = (
    "pair",
    "prompt_id",
    "prompt",
    "winner_stage",
    "winner_row",
    "winner_reward",
    "loser_stage",
    "loser_row",
    "loser_reward",
)

# Required columns of tables; the first one of NUMBERED tables is the number of the row.
COLUMNS: dict[str, tuple[str, ...]] = {
    "images": ("image", "prompt_id", "prompt", "sample", "seed"),
    "scores": ("image", "prompt_id", "reward"),
    "references": ("reference", "image", "prompt_id", "prompt", "seed", "empty_mask"),
    "pairs": PAIRS,
    "twins": TWINS,
    "targets": TARGETS,
    "training": TRAINING,
    "reward_history": ("round", "prompt", "reward"),
}
NUMBERED = ("images", "scores", "references", "pairs", "targets", "twins")


def read_table(path: Path) -> pd.DataFrame:
    """The CSV file at `path`; numbers are read exactly as written. Raises StoreError naming file, column and row."""
    table, name = _read(path), path.stem
    if missing := [column for column in COLUMNS.get(name, ()) if column not in table]:
        raise _wrong(path, f"has no column '{missing[0]}'")
    if name in COLUMNS and len(table):  # the columns of an empty table have no types
        for column in table.columns:
            _check_column(path, table[column])
    number = COLUMNS[name][0] if name in NUMBERED else ""
    if number and table[number].tolist() != list(range(len(table))):
        raise _wrong(path, f"the column '{number}' does not number the rows from 0")
    return table


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row with more cells than the header
            return pd.read_csv(
                path,
                keep_default_na=False,
                na_values=[""],
                dtype=dict.fromkeys(TEXTS, str),
                index_col=False,
                low_memory=False,
            )
    except (OSError, OverflowError, ValueError, pd.errors.ParserWarning) as error:  # pandas' own are ValueErrors
        raise _wrong(path, f"is no table: {one_line(error)}") from error


def _check_column(path: Path, column: pd.Series) -> None:
    """Raise StoreError if a cell does not have the type of its column."""
    import numpy as np
    import pandas as pd

    name, kind = str(column.name), str(column.dtype.kind)
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(float)
    if name in TEXTS:
        fine, kinds = column.notna().to_numpy(), kind
    elif name in FLAGS:
        fine, kinds = column.isin([True, False]).to_numpy(), "b"
    elif name in COUNTS:
        fine, kinds = (numbers >= 0) & (numbers % 1 == 0), "i"
    elif name in NUMBERS:
        fine, kinds = np.isfinite(numbers), "if"
    else:
        return
    if not fine.all() or kind not in kinds:
        row = int(np.flatnonzero(~fine)[0]) if not fine.all() else 0
        raise _wrong(path, f"row {row} has {short(repr(column.tolist()[row]))} in the column '{name}'")


def _wrong(path: Path, what: str) -> StoreError:
    return StoreError(f"store: {path} {what}.", how_to_mend(path))
