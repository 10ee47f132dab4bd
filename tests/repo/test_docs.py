"""Generated tables are up to date, links and files exist, and commands can be parsed by their programs."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_THE_REPOSITORY = ("benchmarks", "dfusion_core", "docs", "stages", "studies", "tests")  # folders
TABLES = [  # of docs/store.md, with where a finished tiny project has them
    "sample/images.csv",
    "score/scores.csv",
    "extract/references.csv",
    "extract/pairs.csv",
    "adopt/targets.csv",
    "adopt/training.csv",
    "train/updates.csv",
    "train/timesteps.csv",
    "train/reward_history.csv",
    "evaluate/images.csv",
]
OPTIONAL = {"right", "oracle_log_prob", "human"}  # columns that a tiny project has not


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def shell_lines() -> list[tuple[str, str]]:
    """(page, command) of every line of every shell example, without its comment; what && joins is two."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", page.read_text(), flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                plain = re.sub(r"\$\(.*\)", "X", line.partition(" #")[0])
                found += [(name_of(page), one.strip()) for one in re.split(r"&&| \| ", plain)]
    return [(page, line) for page, line in found if line and not line.startswith("#")]


@pytest.mark.parametrize(("program", "page"), [("make_parameters", "parameters"), ("make_arrays", "store")])
def test_generated_tables_are_up_to_date(program: str, page: str) -> None:
    written = runpy.run_path(str(ROOT / "docs" / f"{program}.py"))["page"]()
    assert (ROOT / "docs" / f"{page}.md").read_text() == written, f"run 'python docs/{program}.py'"


@pytest.mark.parametrize("table", TABLES)
def test_columns_are_those_of_the_page_of_the_store(finished: Path, table: str) -> None:
    line = next(line for line in (ROOT / "docs/store.md").read_text().splitlines() if line.startswith(f"| `{table}`"))
    stated = re.findall(r"`(\w+)`", line.split(" | ")[2])
    written = (finished / "runs/r00" / table).read_text().splitlines()[0].split(",")
    assert [name for name in stated if name not in OPTIONAL] == written


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name) if name else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(rf"(?<![\w/.-])((?:{'|'.join(OF_THE_REPOSITORY)})/[\w./-]*\w)", page.read_text())
    if "scattered" in page.parts:  # its commands are those of the commit that it names
        named = [name for name in named if not name.startswith("studies/")]
    if page.stem == "guarantees":
        named += [
            f"tests/{name}"
            for name in re.findall(r"`((?:faults|stages|unit|repo|mixing|hostile)/\w+\.py)`", page.read_text())
        ]
    placeholder = re.compile(r"[A-Z]{4,}|[_-]$|/build/")  # docs/evidence/STUDY, micro_{behaviour,relation}.yaml
    tests = ROOT / "tests" if page.stem == "guarantees" else ROOT
    assert [
        name
        for name in named
        if not placeholder.search(name)
        and not (ROOT / name).exists()
        and not (tests / name).exists()
        and not (page.parent / name).exists()
    ] == []


def test_every_dfusion_command_parses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options and arguments are those of the program; nothing is run."""
    import typer

    from dfusion_core.commands.cli import app

    program = typer.main.get_command(app)
    lines = [(page, line) for page, line in shell_lines() if line.startswith("dfusion ")]
    assert len(lines) > 30
    for page, line in lines:
        words, command, context = shlex.split(line)[1:], program, None
        while hasattr(command, "commands"):
            assert words and words[0] in command.commands, f"{page}: {line}"
            command = command.commands[words.pop(0)]
        context = command.context_class(command)
        try:
            command.make_parser(context).parse_args(words)
        except Exception as error:
            pytest.fail(f"{page}: {line}: {error}")


def test_every_dvc_command_parses() -> None:
    from dvc.cli import parse_args

    lines = [(page, line) for page, line in shell_lines() if line.startswith("dvc ")]
    assert len(lines) > 20
    for page, line in lines:
        try:
            parse_args(shlex.split(line)[1:])
        except BaseException as error:
            pytest.fail(f"{page}: {line}: {error!r}")


def test_every_python_command_has_its_program() -> None:
    from dfusion_core.params.sections import Launcher

    lines = [(page, shlex.split(line)) for page, line in shell_lines() if re.match(r"(\w+=\S+ )*python ", line)]
    assert len(lines) > 10
    for page, words in lines:
        words = words[words.index("python") + 1 :]
        if words[0] != "-m":
            assert (ROOT / words[0]).is_file() or words[0].startswith("-"), f"{page}: {words}"
        elif words[1].split(".")[0] == "stages":
            stage = words[1].partition(".")[2] or words[2]
            assert stage in {*Launcher.model_fields, "all", "code", "NAME", "STAGE"}, f"{page}: {words}"
        elif words[1] == "benchmarks":
            from benchmarks.__main__ import parse

            assert isinstance(parse(words[2:]), argparse.Namespace)
        else:
            assert words[1] in ("venv", "pytest", "pip") or (ROOT / words[1].replace(".", "/")).exists(), (page, words)
