"""The page of parameters is what its program writes from the code and params.yaml."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_of_parameters_is_up_to_date() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "make_parameters.py"))["page"]()
    assert (ROOT / "docs" / "parameters.md").read_text() == written, "run 'python docs/make_parameters.py'"
