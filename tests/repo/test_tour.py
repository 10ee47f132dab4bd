"""The notebook docs/tour.ipynb: it runs on a tiny project, and what it holds are the outputs of a run."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/tour.ipynb"
MIB = 2**20


def code_cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(PAGE.read_text())["cells"] if cell["cell_type"] == "code"]


def pictures(cell: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell["outputs"])


def test_outputs_are_those_of_one_run_from_the_first_cell_to_the_last() -> None:
    cells = code_cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell["outputs"] for cell in cells)
    assert sum(map(pictures, cells)) >= 7
    assert not [one for cell in cells for one in cell["outputs"] if one["output_type"] == "error"]


def test_it_is_small_and_names_no_machine() -> None:
    assert PAGE.stat().st_size < 1.5 * MIB
    for cell in code_cells():
        for output in cell["outputs"]:
            shown = json.dumps({key: value for key, value in output.items() if key != "data"})
            shown += json.dumps({key: value for key, value in output.get("data", {}).items() if key != "image/png"})
            assert not re.search(r"/(tmp|usr|home|root|work|opt|Users)/|site-packages|Warning", shown), shown[:200]


@pytest.mark.slow
def test_it_runs_on_a_tiny_project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell, in a process of its own; as many pictures as in the run that is kept."""
    pytest.importorskip("nbclient", reason="nbclient is not installed: pip install -e '.[tour]'")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("DFUSION_TOUR", "")  # is set by the program, and put back at the end
    spec = importlib.util.spec_from_file_location("run_tour", ROOT / "docs/run_tour.py")
    assert spec and spec.loader
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    made = program.run(Path(shutil.copytree(finished, tmp_path / "project")))
    cells = [cell for cell in made.cells if cell.cell_type == "code"]
    assert [pictures(cell) for cell in cells] == [pictures(cell) for cell in code_cells()]
    assert [cell.source for cell in cells] == ["".join(cell["source"]) for cell in code_cells()]
