"""Run docs/tour.ipynb and keep what it shows: python docs/run_tour.py. Some five minutes on two CPU cores."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

PAGE = Path(__file__).parent / "tour.ipynb"
SECONDS = 3600  # for a cell, on a slow machine


def run(project: Path) -> Any:
    """The notebook after a run in a project's folder; an empty folder becomes one."""
    notebook: Any = nbformat.read(PAGE, as_version=4)
    os.environ["DFUSION_TOUR"] = str(project)
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3").execute()
    for cell in notebook.cells:
        cell.metadata = {}  # times of this run
        if "outputs" in cell:
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]  # warnings about this machine
        cell.id = f"cell-{notebook.cells.index(cell):02}"
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    return notebook


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(run(Path(folder)), PAGE)
