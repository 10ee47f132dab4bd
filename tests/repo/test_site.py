"""The site of docs/ builds in strict mode, asks no other server for anything, and has a page of every public module."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
ROOT = Path(__file__).parents[2]
PARTS = ("docs", "dfusion_core", "studies")

pytestmark = pytest.mark.slow


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there_and_stands_alone(site: Path) -> None:
    pages = [page.relative_to(ROOT / "docs").with_suffix("") for page in (ROOT / "docs").rglob("*.md")]
    assert len(pages) > 20
    for page in pages:
        folder = page.parent if page.name == "README" else page
        assert (site / folder / "index.html").is_file(), page
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]+)"', text)
        loaded += re.findall(r'<link[^>]* rel="(?:stylesheet|preconnect|icon)"[^>]* href="([^"]+)"', text)
        assert loaded and not [one for one in loaded if "//" in one], page
        assert '<meta name="viewport"' in text


def test_links_lead_somewhere(site: Path) -> None:
    """Those of the first page: to pages, to modules, to copies of other files."""
    text = (site / "index.html").read_text()
    targets = {target for target in re.findall(r'href="([^"]+)"', text) if "://" not in target}
    assert any("api/equations/#dfusion_core.attention.masks" in target for target in targets)
    assert "files/CITATION.cff" in targets
    for target in targets:
        name, _, anchor = target.partition("#")
        there = (site / name).resolve() if name else site / "index.html"
        there = there / "index.html" if there.is_dir() else there
        assert there.is_file(), target
        assert not anchor or f'id="{anchor}"' in there.read_text() or anchor == "__skip", target


def test_public_modules_have_their_functions(site: Path) -> None:
    for page in (ROOT / "docs/api").glob("*.md"):
        for module in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE):
            source = ast.parse(ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text())
            shown = (site / "api" / page.stem / "index.html").read_text()
            names = [node.name for node in source.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
            names = [name for name in names if not name.startswith("_")]
            assert names and [name for name in names if f'id="{module}.{name}"' not in shown] == []


def test_a_broken_link_is_an_error(tmp_path: Path) -> None:
    left_out = shutil.ignore_patterns("__pycache__", "weights")
    for name in PARTS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=left_out)
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    page = tmp_path / "docs/doctor.md"
    page.write_text(f"{page.read_text()}\nSee [there](nowhere.md) and [here](store.md#nothing-of-that-name).\n")
    done = build(tmp_path, tmp_path / "site")
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "nowhere.md" in said and "nothing-of-that-name" in said
