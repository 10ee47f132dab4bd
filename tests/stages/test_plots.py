"""`dfusion plots`: DVC's page opens without a network, in a browser that has none."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from dfusion_core.commands.cli import app

ROOT = Path(__file__).parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
OFFLINE = ("--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND")


@pytest.fixture
def results(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository with the plots of the pipeline, and results of two rounds."""
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(workspace / ".site"))
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    Path("dvc.yaml").write_text(yaml.safe_dump({"plots": plots}))
    Path("results/grids").mkdir(parents=True)
    Path("results/alignment.csv").write_text(
        "images,train_reward,test_reward\n0,0.70,0.71\n72,0.74,0.73\n144,0.8,0.75\n"
    )
    Path("results/updates.csv").write_text("update,winner_drift,loser_drift\n0,0,0\n1,0.01,-0.01\n2,0.02,-0.03\n")
    for name, grey in (("init", 40), ("r00", 200)):
        Image.fromarray(np.full((64, 64, 3), grey, np.uint8)).save(f"results/grids/{name}.png")
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, check=True, capture_output=True)
    return workspace


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium, or set $CHROMIUM")
def test_the_page_draws_itself_without_a_network(results: Path) -> None:
    pytest.importorskip("vl_convert", reason="vl-convert-python is not installed: pip install -e '.[dev]'")
    done = CliRunner().invoke(app, ["plots", "--out", "page"])
    assert done.exit_code == 0, done.output
    page = results / "page" / "index.html"
    assert str(Path("page", "index.html")) in done.output
    source = page.read_text(encoding="utf-8")
    assert not re.search(r"<script[^>]*\ssrc=|<link[^>]*\shref=", source)
    profile = f"--user-data-dir={results / 'browser'}"
    command = [str(BROWSER), *OFFLINE, profile, "--virtual-time-budget=20000", "--dump-dom", page.as_uri()]
    drawn = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False).stdout
    drawn = drawn[drawn.index("</script>") :]  # after vega's own text
    assert len(re.findall(r"<canvas|<svg[^>]*class=\"marks\"", drawn)) == 2, drawn[-2000:]
    for name in ("init", "r00"):
        (picture,) = re.findall(rf'src="([^"]*{name}\.png)"', drawn)
        assert (page.parent / picture).is_file()


def test_without_the_package_it_says_how_to_get_it(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)  # as Python marks what cannot be imported
    done = CliRunner().invoke(app, ["plots"])
    assert done.exit_code == 1 and "pip install vl-convert-python" in done.output and not Path("dvc_plots").exists()


@pytest.mark.slow
def test_a_revision_that_is_not_there(results: Path) -> None:
    pytest.importorskip("vl_convert", reason="vl-convert-python is not installed: pip install -e '.[dev]'")
    done = CliRunner().invoke(app, ["plots", "no-such-experiment"])
    assert done.exit_code == 1 and "no-such-experiment" in done.output and "dvc exp show" in done.output
