"""What git holds: nothing that runs code from data, no path of one machine, no large file but the weights."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WEIGHTS = "dfusion_core/microworld/weights/"
ABOUT_THIS = ("tests/repo/test_clean.py", "tests/repo/test_no_code_loading.py")
MIB = 2**20

FORBIDDEN = {
    "unpickling": r"\bimport (c?pickle|dill|joblib|shelve)\b|\bfrom (c?pickle|dill|joblib|shelve)\b|allow_pickle=True",
    "torch.load": r"\btorch\.(load|save)\(",
    "yaml.load": r"\byaml\.(load|unsafe_load|full_load)\(",
    "eval": r"(?<![\w.])(eval|exec)\(",
    "a shell": r"shell=True|\bos\.system\(",
    "a path of one machine": r"(?<![\w.$}])/(work|root|home|Users|mnt)/",
    "a secret": r"\bhf_[A-Za-z0-9]{30,}|\bAKIA[0-9A-Z]{16}\b|BEGIN [A-Z ]*PRIVATE KEY",
    "trust in foreign code": r"trust_remote_code=True",
    "a template that was not filled in": r"\{\{[A-Z_]+\}\}",
}


def tracked() -> list[str]:
    """Names that git has, or would have after `git add`."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("this is no git repository")
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def texts() -> list[tuple[str, str]]:
    """Every text file but this one and the one that shows how each breach is written."""
    found = []
    for name in tracked():
        data = (ROOT / name).read_bytes()
        if b"\0" not in data and name not in ABOUT_THIS:
            found.append((name, data.decode()))
    return found


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_text_has(what: str) -> None:
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(FORBIDDEN[what], line)
    ]
    assert not found, "\n".join(found)


def test_sizes() -> None:
    sizes = {name: (ROOT / name).stat().st_size for name in tracked()}
    assert {name for name, size in sizes.items() if size > 5 * MIB and not name.startswith(WEIGHTS)} == set()
    assert sum(size for name, size in sizes.items() if name.startswith(WEIGHTS)) <= 28 * MIB


def test_no_output_is_tracked() -> None:
    made = re.compile(r"(^|/)(__pycache__|\.dfusion|runs|results|\w+\.egg-info|build)/|\.(pyc|log|tmp|swp|orig)$")
    assert [name for name in tracked() if made.search(name) and not name.startswith("tests/data/")] == []


def test_every_text_ends_with_one_newline_and_has_no_tabs_or_trailing_blanks() -> None:
    for name, text in texts():
        if name.endswith((".py", ".md", ".yaml", ".toml", ".cff")):
            assert text == "" or (text.endswith("\n") and not text.endswith("\n\n")), name
            assert "\t" not in text, name
            if not name.endswith(".md"):
                assert not re.search(r"[ \t]+$", text, re.MULTILINE), name


def test_the_environment_of_the_readme_is_ignored() -> None:
    """Else `git add`, `dvc exp run` and the tests of this file would take in all that is installed."""
    environment = re.findall(r"python -m venv (\S+)", (ROOT / "README.md").read_text())
    assert environment and all(f"/{name}/" in (ROOT / ".gitignore").read_text().splitlines() for name in environment)
