"""dvc.yaml says what the code of a stage is and reads, so that DVC runs it again when it must, and only then."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dfusion_core.params import load_everything
from dfusion_core.store import closure
from dfusion_core.store.closure import code_of
from dfusion_core.store.paths import output

ROOT = Path(__file__).parents[2]
PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
CODE: dict[str, Any] = PIPELINE.pop("code")
STAGES = {name: stage.get("do", stage) for name, stage in PIPELINE.items()}


def file_of(stage: str) -> Path:
    """The module that the command runs."""
    found = re.fullmatch(r"python -m stages (\w+)( init)?", STAGES[stage]["cmd"])
    assert found, STAGES[stage]["cmd"]
    return ROOT / "stages" / f"{found[1]}.py"


def covers(dep: str, file: str) -> bool:
    """A folder stands for everything in it."""
    return file == dep or file.startswith(f"{dep}/")


def test_dvc_finds_no_other_pipeline() -> None:
    """It reads every dvc.yaml below its root, and runs none where it cannot read one of them."""
    found = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/**/dvc.yaml") if ".venv" not in path.parts}
    assert found == {"dfusion_core/microworld/pretrain/dvc.yaml"}


def test_every_stage_file_is_in_the_pipeline() -> None:
    files = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__", "__main__", "code"}
    assert {file_of(stage).stem for stage in STAGES} == files
    assert load_everything(ROOT / "params.yaml").launcher.model_fields_set == files - {"prompts"}


def test_the_stage_code_reads_all_that_the_stages_import() -> None:
    """And what the digests are made by; DVC runs it again when one of these files is edited."""
    files = {path.relative_to(ROOT).as_posix() for stage in STAGES for path in code_of(file_of(stage))}
    files |= {"stages/code.py", "dfusion_core/store/code.py", "dfusion_core/store/closure.py"}
    assert {file for file in files if not any(covers(dep, file) for dep in CODE["deps"])} == set()
    assert {dep for dep in CODE["deps"] if not any(covers(dep, file) for file in files)} == set()


def test_every_stage_depends_on_the_digests_of_its_own_code_alone() -> None:
    for stage, one in STAGES.items():
        own = f"results/code/{file_of(stage).stem}.json"
        assert [dep for dep in one["deps"] if dep.startswith("results/code") or dep.endswith(".py")] == [own]
    assert CODE["outs"] == sorted({f"results/code/{file_of(stage).stem}.json" for stage in STAGES})


@pytest.mark.parametrize("stage", STAGES)
def test_every_dependency_is_there_or_is_made(stage: str) -> None:
    outs = {out for one in (CODE, *STAGES.values()) for out in named(one.get("outs", []) + one.get("metrics", []))}
    made = {out.replace("${key}", "*") for out in outs}
    for dep in STAGES[stage]["deps"]:
        if dep.startswith(("runs/", "results/")):
            pattern = re.sub(r"\$\{.*?\}", "*", dep)
            assert any(one == pattern or one.startswith(f"{pattern}/") for one in made), dep
        else:
            dep = dep.replace("${prompts.file}", load_everything(ROOT / "params.yaml").prompts.file)
            assert (ROOT / dep).exists(), dep


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_those_that_the_code_asks_for(stage: str) -> None:
    """The round is the exception: of `rounds` a stage reads its own entry, and the summary reads all."""
    asked = set(sections(file_of(stage)))
    declared = {name.split(".")[0] for name in STAGES[stage].get("params", [])}
    assert declared == asked
    if "rounds" in declared and stage != "summary":
        assert "rounds.${key}" in STAGES[stage]["params"]


def sections(file: Path) -> Iterator[str]:
    """The arguments of every call of load_params in a file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "load_params":
            assert not node.keywords
            yield from (ast.literal_eval(argument) for argument in node.args)


def test_outputs_are_the_folders_that_are_published() -> None:
    for stage, one in STAGES.items():
        for opened in opens(file_of(stage)):
            folder = output(opened, "ROUND").as_posix()
            outs = [re.sub(r"\$\{key\}|(?<=runs/)init(?=/)", "ROUND", out) for out in named(one["outs"])]
            assert folder in outs


def opens(file: Path) -> Iterator[str]:
    """The names that a file gives to open_stage."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "open_stage":
            yield ast.literal_eval(node.args[0])


def named(outs: list[Any]) -> list[str]:
    """Outputs without their options."""
    return [next(iter(out)) if isinstance(out, dict) else out for out in outs]


@pytest.mark.parametrize("stage", STAGES)
def test_inputs_of_the_fingerprint_are_dependencies(stage: str) -> None:
    """`output("x", ...)` in a stage's code is `runs/.../x` in its deps, and the other way round."""
    text = file_of(stage).read_text()
    asked = set(re.findall(r'output\("(\w+)"', text)) | {
        name
        for group in re.findall(r"output\(name, round\) for name in \((.*?)\)", text)
        for name in re.findall(r'"(\w+)"', group)
    }
    deps = {dep.rsplit("/", 1)[1] for dep in STAGES[stage]["deps"] if dep.startswith("runs/")}
    own = {out.rsplit("/", 1)[1] for out in named(STAGES[stage]["outs"])}
    if stage == "evaluate_base":  # of itself it is no dependency
        asked -= {"evaluate"}
    assert asked - own == deps - own


def test_the_closure_follows_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports in functions count, those for type checkers do not, nor does an __init__ of constants."""
    package = tmp_path / "package"
    for name, text in {
        "__init__.py": '"""Docstring."""\n__version__ = "1"\n',
        "a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import typed\n"
        "def f():\n    from .inner import b\n",
        "typed.py": "",
        "unused.py": "",
        "inner/__init__.py": "from .c import thing\n",
        "inner/b.py": "import package.d\n",
        "inner/c.py": "thing = 1\n",
        "d.py": "",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    stage = tmp_path / "stage.py"
    stage.write_text("import json\nfrom package.a import f\n")
    monkeypatch.setattr(closure, "PACKAGE", package)
    found = [path.relative_to(tmp_path).as_posix() for path in code_of(stage)]
    assert found == [
        "package/a.py",
        "package/d.py",
        "package/inner/__init__.py",
        "package/inner/b.py",
        "package/inner/c.py",
        "stage.py",
    ]
