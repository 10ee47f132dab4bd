"""--help and wrong usage answer at once: none of the libraries that take seconds to import is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = sorted(path.stem for path in (ROOT / "stages").glob("*.py") if not path.stem.startswith("__"))
HEAVY = ("torch", "diffusers", "transformers", "peft", "open_clip", "torchvision", "zarr", "dvclive", "matplotlib")

RUN = f"""
import runpy, sys
module, *sys.argv[1:] = sys.argv[1:]
code = 0
try:
    runpy.run_module(module, run_name="__main__")
except SystemExit as error:
    code = error.code or 0
found = [name for name in {HEAVY} if name in sys.modules]
print("loaded:", *found)
sys.exit(code)
"""


def command(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{RUN}", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
    )


@pytest.mark.few(2)
@pytest.mark.parametrize("stage", STAGES)
def test_help_of_a_stage(stage: str) -> None:
    done = command(f"stages.{stage}", "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout and "--help" in done.stdout
    assert ("ROUND" in done.stdout) == (stage not in ("code", "init", "prompts", "summary"))
    assert done.stdout.endswith("loaded:\n")


def test_help_of_dfusion() -> None:
    whole = command("dfusion_core.commands.cli", "--help")
    assert whole.returncode == 0 and whole.stdout.endswith("loaded:\n")
    for name in (
        "init",
        "inspect",
        "verify",
        "params",
        "thresholds",
        "profile",
        "plan",
        "export",
        "doctor",
        "report",
        "compare",
        "plots",
        "label",
        "judge",
        "prune",
    ):
        assert f" {name} " in whole.stdout
        done = command("dfusion_core.commands.cli", name, "--help")
        assert done.returncode == 0 and done.stdout.endswith("loaded:\n")


@pytest.mark.parametrize("arguments", [("stages.sample",), ("stages.train", "r00", "more"), ("stages.fuse", "--rond")])
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert "Usage: " in done.stderr
    assert done.stdout == "loaded:\n"


@pytest.mark.few(2)
@pytest.mark.parametrize("stage", ["init", "sample", "score", "train", "evaluate", "summary"])
def test_mistakes_in_params_are_found_before_anything_is_loaded(stage: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("algo: ddop\nsample: {num_step: 20}\n")
    done = command(f"stages.{stage}", *([] if stage in ("init", "summary") else ["r00"]), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: params.yaml is not valid:\n  algo: Input should be 'dpo', 'ddpo' or 'dpok'")
    assert "sample.num_step: there is no such key (got 20). Did you mean 'sample.num_steps'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "loaded:\n"
