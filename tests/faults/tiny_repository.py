"""A repository as after `git clone`, with a tiny model or the micro-world in small numbers, and DVC commands in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dfusion_core.store.paths import ROUND_STAGES

ROOT = Path(__file__).parents[2]
STAGES = ("init", *ROUND_STAGES, "summary")
# Many small pieces of work, so that a kill has something to lose.
TINY: dict[str, Any] = {
    "sample": {"num_steps": 8, "images_per_prompt": 4, "batch_size": 1},
    "reward": {"batch_size": 2},
    "fuse": {"first_t": 7, "batch_size": 1},
    "train": {"inner_epochs": 6},
    "evaluate": {"images_per_prompt": 2, "batch_size": 1},
}
# Little work, so that many rounds take little more than their stages' start.
MICRO: dict[str, Any] = {
    "sample": {"num_steps": 5, "images_per_prompt": 4, "batch_size": 2},
    "prompts": {"train_count": 1},
    "extract": {"keep_kv": 1},
    "fuse": {"first_t": 4, "batch_size": 1},
    "train": {"pairs_per_update": 1, "micro_batch": 4},
    "evaluate": {"images_per_prompt": 2, "train_count": 1, "test_count": 1, "batch_size": 2},
}


def rounds(count: int) -> dict[str, Any]:
    """r00, r01, ...: each begins where the one before it ended."""
    names = [f"r{number:02d}" for number in range(count)]
    return {name: {"prev": before} for name, before in zip(names, ["init", *names], strict=False)}


def make_repository(folder: Path, params: str, count: int, **changes: Any) -> None:
    """Write it: `params` is tiny or micro, `count` the number of rounds, `changes` are keys of params.yaml."""
    left_out = shutil.ignore_patterns("__pycache__", "pretrain", *(["weights"] if params == "tiny" else []))
    for name in ("stages", "dfusion_core"):
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)
    (folder / "dfusion_core/microworld/weights").mkdir(exist_ok=True)  # a dependency, also of other models
    shutil.copytree(ROOT / "labels", folder / "labels")
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    write_params(folder, params, count, **changes)
    with (folder / ".gitignore").open("a") as file:
        file.write("/.site/\n/.config/\n/.cache/\n/.local/\n/model/\n/clip/\n")
    for command in (
        "git init -q",
        "git config user.name t",
        "git config user.email t@localhost",
        "dvc init -q",
        "git add -A",
        "git commit -q -m tiny",
    ):
        call(folder, *command.split())


def write_params(folder: Path, params: str, count: int, **changes: Any) -> None:
    """Write params.yaml."""
    changes = {"rounds": rounds(count), **changes}
    if params == "tiny":
        from dfusion_core.testing import tiny_params

        tiny_params(folder, **{key: merged(TINY.get(key, {}), changes.get(key, {})) for key in {*TINY, *changes}})
    else:
        base = yaml.safe_load((ROOT / "params.yaml").read_text())
        for change in (MICRO, changes):
            base |= {key: merged(base[key], value) for key, value in change.items()}
        (folder / "params.yaml").write_text(yaml.safe_dump(base, sort_keys=False))


def merged(old: Any, new: Any) -> Any:
    """A section with changed keys; what is no section, or has the names of rounds, is replaced."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and "r00" not in new:
        return {**old, **new}
    return new


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Variables of a process: this Python first on the path, and no settings of whoever runs the tests."""
    ours = ("DVC_", "DFUSION_", "GIT_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
        "PYTHONPATH": str(folder),
        "DVC_NO_ANALYTICS": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "DVC_SITE_CACHE_DIR": str(folder / ".site"),
        "OMP_NUM_THREADS": "1",
        **more,
    }


def call(folder: Path, *command: str, **more: str) -> str:
    """Output and errors of a command that must succeed."""
    done = subprocess.run(
        command, cwd=folder, env=environment(folder, **more), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def run_directly(folder: Path, count: int) -> None:
    """All stages one after the other in one process, without DVC: the uninterrupted run to compare with."""
    calls = [
        "init.init()",
        "evaluate.evaluate('init')",
        *(f"{stage}.{stage}('{round}')" for round in rounds(count) for stage in STAGES[1:-1]),
        "summary.summary()",
    ]
    lines = [f"from stages import {', '.join(STAGES)}", *calls]
    call(folder, sys.executable, "-c", "\n".join(lines))
