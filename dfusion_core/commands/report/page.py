"""The report: one HTML page about a run, and a PNG of its fixed seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...store.atomic import write_bytes, write_text
from . import html
from .judged import judged
from .methods import methods
from .origin import origin, parameters, summary
from .run import read_run
from .samples import attention, fixed_seeds, pairs, seeds_sheet
from .scores import curves, learning, pairs_table, results


def write_report(out: Path, studies: Sequence[Path] = ()) -> None:
    """Write the page about the run in this folder, with tables of the studies in ``studies``, and beside it a PNG of
    the fixed seeds. Raises MissingStage naming the command to run first, RewardError if rewards are mixed."""
    run = read_run()
    parts = [summary(run), results(run), judged(), curves(run), fixed_seeds(run), pairs_table(run)]
    parts += [pairs(round) for round in run.shown] + [attention(run.rounds[-1]), learning(run)]
    parts += [methods(study) for study in studies] + [parameters(run), origin(run)]
    write_text(out, html.document(run.title, parts))
    write_bytes(out.with_suffix(".png"), seeds_sheet(run))
