"""The import graph has no circles and its arrows point down; functions and files are short."""

from __future__ import annotations

import ast
import statistics
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("dfusion_core/**/*.py"), *ROOT.glob("stages/*.py")])
GROUND = ("errors", "params", "runtime", "store")  # from below: none imports what stands after it
PAPER = (  # one equation or algorithm of the paper each
    "adoption.rule",
    "attention.control",
    "attention.fusion",
    "attention.grid",
    "attention.joint",
    "attention.layers",
    "attention.masks",
    "attention.processor",
    "attention.replacing",
    "diffusion.ddim",
    "diffusion.denoise",
    "diffusion.finite",
    "diffusion.flow",
    "diffusion.noise",
    "diffusion.steps",
    "diffusion.tables",
    "diffusion.window",
    "pairing.algorithm1",
    "training.losses",
)
LIBRARIES = {"torch", "numpy", "diffusers"}  # of diffusers the interfaces that a U-Net and a scheduler have


@cache
def graph(for_types: bool = False) -> grimp.ImportGraph:
    """Modules of the package and the stages, imports inside functions included; with those for type checkers or not."""
    return grimp.build_graph(
        "dfusion_core",
        "stages",
        include_external_packages=True,
        cache_dir=None,
        exclude_type_checking_imports=not for_types,
    )


def imports(of: str, for_types: bool = False) -> set[str]:
    return graph(for_types).find_modules_directly_imported_by(of)


def within(package: str) -> set[str]:
    """A module or package and all below it."""
    return {package, *graph().find_descendants(package)}


def test_no_circles() -> None:
    arrows = {module: imports(module, for_types=True) for module in graph(for_types=True).modules}
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(f"these modules import each other: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("layer", GROUND)
def test_ground_imports_only_what_is_below_it(layer: str) -> None:
    below = set().union(*(within(f"dfusion_core.{name}") for name in GROUND[: GROUND.index(layer) + 1]))
    below.add("dfusion_core")  # the version number
    found = set().union(*(imports(module, for_types=True) for module in within(f"dfusion_core.{layer}")))
    assert found
    assert not {module for module in found if module.startswith("dfusion_core")} - below


def test_nothing_below_knows_stages_or_commands() -> None:
    commands = within("dfusion_core.commands")
    assert len(commands) > 20 and len(within("stages")) > 8
    for module in within("dfusion_core"):
        found = imports(module, for_types=True)
        assert not found & within("stages"), module
        assert module in commands or not found & commands, module


def test_stages_do_not_import_each_other() -> None:
    for module in within("stages"):
        assert not imports(module) & within("stages") - {"stages"}, module


def test_one_module_knows_the_micro_world() -> None:
    world = within("dfusion_core.microworld")
    assert {module for module in within("dfusion_core") - world if imports(module, for_types=True) & world} == {
        "dfusion_core.models.builtin"
    }


@pytest.mark.parametrize("name", PAPER)
def test_paper_files_import_the_paper_and_torch(name: str) -> None:
    allowed = {f"dfusion_core.{paper}" for paper in PAPER} | {"dfusion_core.errors", "dfusion_core.prompts.items"}
    standard = sys.stdlib_module_names
    assert imports(f"dfusion_core.{name}") <= allowed | LIBRARIES | standard


def test_functions_and_files_are_short() -> None:
    functions = [
        node.end_lineno - node.lineno + 1
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    ]
    assert len(functions) > 1000
    assert statistics.quantiles(functions, n=10)[-1] <= 20
    assert max(functions) <= 45
    assert {file.relative_to(ROOT).as_posix() for file in SOURCES if len(file.read_text().splitlines()) > 250} == set()
