"""Every module imports by itself, in whatever order: a name that is missing is found here and not by a user."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

IMPORT_EACH = """
import importlib, sys, traceback
failed = 0
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception:
        failed += 1
        print(name)
        traceback.print_exc(file=sys.stdout)
sys.exit(failed > 0)
"""


def modules() -> list[str]:
    files = [*(ROOT / "dfusion_core").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(files, reverse=True))
    return [name.removesuffix(".__init__") for name in names]


@pytest.mark.slow
def test_every_module_imports() -> None:
    assert len(modules()) > 50
    done = subprocess.run([sys.executable, "-c", IMPORT_EACH, *modules()], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
