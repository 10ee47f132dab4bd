"""The table of methods: what a study found, beside the run."""

from __future__ import annotations

from pathlib import Path

from ..errors import MissingStage, StoreError
from ..results import MEASURES, SPLITS
from ..store.tables import read_table
from ..study.comparing import shown
from . import html

FILE = "gains.csv"  # what `dfusion study table` writes
ESTIMATES = ("gain", "difference")
COLUMNS = ("method", "group", "split", "measure", "seeds", *(
    f"{name}{end}" for name in ESTIMATES for end in ("", "_low", "_high")))


def methods(study: Path) -> str:
    """The gains of a study's methods over the base model, all groups together. Raises MissingStage."""
    if not (study / FILE).is_file():
        raise MissingStage(f"report: {study} is no study's folder: there is no {FILE}.",
                           "Name the folder that 'dfusion study table' wrote to, as docs/evidence/methods.")
    table = read_table(study / FILE)
    if missing := [name for name in COLUMNS if name not in table]:
        raise StoreError(f"report: {study / FILE} has no column '{missing[0]}'.", "Run 'dfusion study table' again.")
    groups = list(dict.fromkeys(table.group))
    if "all" in groups:
        table = table[table.group == "all"]
    rows = [(one["method"], one["group"], SPLITS[one["split"]], MEASURES[one["measure"]], one["seeds"],
             *(shown(one, name) for name in ESTIMATES)) for one in table.to_dict("records")]
    return html.heading(f"Methods: {study.name}", "Trainings with several seeds: gain over the base model, and "
                        "difference from the study's baseline, with 95 % intervals over seeds and prompts."
                        ) + html.table(["method", "group", "prompts", "measure", "seeds", "gain", "difference"], rows)
