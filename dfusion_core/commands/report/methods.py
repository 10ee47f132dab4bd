"""The table of methods of a study."""

from __future__ import annotations

from pathlib import Path

from ...errors import MissingStage, StoreError
from ...evaluation.labels import SPLITS, label
from ...store.tables import read_table
from ..study.comparing import shown
from . import html

FILE = "gains.csv"  # what `dfusion study table` writes
ESTIMATES = ("gain", "difference")
COLUMNS = (
    "method",
    "group",
    "split",
    "measure",
    "seeds",
    *(f"{name}{end}" for name in ESTIMATES for end in ("", "_low", "_high")),
)


def methods(study: Path) -> str:
    """The gains of a study's methods over the base model, all groups together. Raises MissingStage, StoreError."""
    if not (study / FILE).is_file():
        raise MissingStage(
            f"report: {study} is no study's folder: there is no {FILE}.",
            "Name the folder that 'dfusion study table' wrote to, as results/studies/methods.",
        )
    table = read_table(study / FILE)
    if missing := [name for name in COLUMNS if name not in table]:
        raise StoreError(f"report: {study / FILE} has no column '{missing[0]}'.", "Run 'dfusion study table' again.")
    if "all" in set(table.group):
        table = table[table.group == "all"]
    kinds = table[["measure", "split"]].drop_duplicates().itertuples(index=False, name=None)
    columns = {f"{label(measure)}\n{SPLITS[split]}": (measure, split) for measure, split in kinds}
    rows = []
    for (method, group), found in table.groupby(["method", "group"], sort=False):
        estimates = found.set_index(["measure", "split"]).to_dict("index")
        cells = (
            "\n".join(shown(estimates[kind], name) for name in ESTIMATES) if kind in estimates else ""
            for kind in columns.values()
        )
        rows.append((method, group, found.seeds.min(), *cells))
    return html.heading(
        f"Methods: {study.name}",
        "Gain over the base model, and below it the difference from the "
        "study's baseline, with 95 % intervals over trainings and prompts.",
    ) + html.table(["method", "group", "seeds", *columns], rows)
