"""What is shipped beside the package agrees with it: version, names, the image's files, the workflow's commands."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from dfusion_core import __version__
from dfusion_core.commands.doctor.installation import DISTRIBUTION

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_one_name_and_one_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["name"] == DISTRIBUTION == citation["title"]
    assert PROJECT["version"] == __version__ == citation["version"]
    assert PROJECT["license"] == citation["license"]
    (paper,) = citation["references"]
    assert PROJECT["urls"]["Paper"] == paper["url"]


def test_every_install_line_of_the_pages_names_the_distribution_and_its_extras() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(page.read_text() for page in pages)
    found = re.findall(r"pip install (?:--upgrade )?(?:-e )?'?(\.|dfusion[\w-]*)(?:\[([\w,]+)\])?", text)
    assert len(found) > 5
    for name, extras in found:
        assert name in (".", DISTRIBUTION) or name.startswith(f"{DISTRIBUTION.replace('-', '_')}-{__version__[0]}")
        assert not {*filter(None, extras.split(","))} - PROJECT["optional-dependencies"].keys()


def test_nothing_that_only_tests_need_is_installed_by_default() -> None:
    names = {re.match(r"[\w.-]+", line)[0].lower() for line in PROJECT["dependencies"]}
    assert not {name for name in names if re.search("pytest|moto|flask|mypy|ruff|playwright|hypothesis|mkdocs", name)}


def test_the_image_copies_what_is_there() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert names == let_in and all((ROOT / name).exists() for name in names)


def test_hadolint() -> None:
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([program, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_files_of_the_workflow_exist() -> None:
    flow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    lines = [step["run"] for job in flow["jobs"].values() for step in job["steps"] if "run" in step]
    named = [name for line in lines for name in re.findall(r"(?:tests|\.ci|docs)/[\w./]+", line)]
    assert named and [name for name in named if not (ROOT / name).exists()] == []
