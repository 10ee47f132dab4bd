"""Starting a stage as params.yaml says: alone, through another program, and never through a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def launch(folder: Path, *arguments: str, launcher: str = "python") -> subprocess.CompletedProcess[str]:
    """`python -m stages` where params.yaml has this launcher for init."""
    (folder / "params.yaml").write_text(yaml.safe_dump({"launcher": {"init": launcher}}))
    return subprocess.run(
        [sys.executable, "-m", "stages", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "WORD": "two words"},
    )


def test_what_another_program_gets(tmp_path: Path) -> None:
    """Words as a shell would split them, variables filled in afterwards, and nothing else that a shell does."""
    show = f"{sys.executable} -c 'import sys; print(sys.argv[1:])' 'a b' $WORD '; touch made' $(pwd)"
    done = launch(tmp_path, "init", "r00", launcher=show)
    assert done.stdout.strip() == "['a b', 'two words', '; touch made', '$(pwd)', '-m', 'stages.init', 'r00']"
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize("launcher", ["python", f"{sys.executable} -B"])
def test_the_stage_gets_its_arguments(tmp_path: Path, launcher: str) -> None:
    done = launch(tmp_path, "init", "--help", launcher=launcher)
    assert done.returncode == 0 and "Write the zero adapter" in done.stdout


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    done = launch(tmp_path, "init", launcher="MORE=1 python")
    assert done.returncode == 1
    assert done.stderr == (
        "error: launcher.init: 'MORE=1' cannot be started: No such file or directory. Correct it in params.yaml; "
        "variables are set as in 'env CUDA_VISIBLE_DEVICES=0 python'.\n"
    )


@pytest.mark.parametrize("arguments", [(), ("trian", "r00")])
def test_a_stage_that_is_not_there(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = launch(tmp_path, *arguments)
    assert done.returncode == 2 and "usage: python -m stages STAGE [ROUND]" in done.stderr
    assert ("Did you mean 'train'?" in done.stderr) == bool(arguments)
