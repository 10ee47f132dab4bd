"""Summary: every round against the base model, as tables, a metrics file and the alignment curve.

reads   results/rounds/*.json, results/training/*.json
writes  results/metrics.json, results/alignment.csv, results/updates.csv
"""

from __future__ import annotations

from dfusion_core.evaluation.tables import summarise
from dfusion_core.params import load_params
from dfusion_core.runtime.entry import run_stage
from dfusion_core.runtime.ranks import leads


def summary() -> None:
    """Gather the rounds' results and print the tables."""
    params = load_params("rounds")
    if leads():
        summarise(params)


if __name__ == "__main__":
    run_stage(summary)
