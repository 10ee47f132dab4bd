"""Training curves in dvclive's files, for ``dvc plots`` and the editors that read them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd


def write_live(history: pd.DataFrame, folder: Path) -> None:
    """Log every optimizer step. Called at the end with the saved history, so that a resumed run has no gap."""
    from dvclive import Live

    with Live(str(folder), report=None, save_dvc_exp=False, dvcyaml=None, monitor_system=False) as live:
        for row in history.to_dict("records"):
            for name, value in row.items():
                if name != "update":
                    live.log_metric(str(name), float(value), timestamp=False)
            live.next_step()
