"""What the tests of nodes share: a repository with a tiny run, commands in a clone of it, other users and hosts."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import preloaded
import yaml

from dfusion_core.testing import tiny_params

ROOT = Path(__file__).parents[2]
NOBODY = 65534
ELSEWHERE = "node-of-another-network"  # the host's name where it can be changed
BECOME = f"import os, socket, sys; socket.sethostname({ELSEWHERE!r}); os.execvp(sys.argv[1], sys.argv[1:])"
SMALL: dict[str, Any] = {
    "rounds": {"r00": {"prev": "init"}},
    "sample": {"num_steps": 3},
    "fuse": {"first_t": 2},
    "evaluate": {"images_per_prompt": 1},
}
STAGES = (
    "code",
    "prompts",
    "init",
    "evaluate_base",
    "sample@r00",
    "score@r00",
    "extract@r00",
    "fuse@r00",
    "adopt@r00",
    "train@r00",
    "evaluate@r00",
    "summary",
)


def repository(folder: Path) -> Path:
    """The program with tiny parameters, in git and DVC."""
    folder.mkdir(parents=True)
    skip = shutil.ignore_patterns("__pycache__", "build")
    for part in ("dfusion_core", "stages"):
        shutil.copytree(ROOT / part, folder / part, ignore=skip)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    tiny_params(folder, **SMALL)
    with (folder / ".gitignore").open("a") as file:
        file.write("/.home/\n")
    call(folder, "git", "init", "-q", "-b", "main")
    call(folder, "dvc", "init", "-q")
    call(folder, "dvc", "config", "core.check_update", "false")
    commit(folder, "tiny")
    return folder


def environment(folder: Path, real: bool = False, **more: str) -> dict[str, str]:
    """That of a user whose home is in the clone: no cache, no configuration and no setting of this machine.

    ``python`` is that of `preloaded`, or the ``real`` one.
    """
    first = [] if real else [str(preloaded.folder())]
    ours = ("DVC_", "DFUSION_", "GIT_", "PYTHON", "AWS_", "HF_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    git = {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    who = {f"GIT_{role}_{what}": "t@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return (
        kept
        | git
        | who
        | {
            "PATH": os.pathsep.join([*first, str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(folder / ".home"),
            "DVC_SITE_CACHE_DIR": str(folder / ".home"),
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": "1",
        }
        | more
    )


def call(folder: Path, *command: str, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None) -> str:
    """Output and errors of a command that must succeed; with a prefix, of the real Python."""
    done = subprocess.run(
        [*prefix, *command],
        cwd=folder,
        env=environment(folder, bool(prefix), **(env or {})),
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def commit(folder: Path, message: str, prefix: Sequence[str] = ()) -> None:
    call(folder, "git", "add", "-A", prefix=prefix)
    call(folder, "git", "commit", "-q", "-m", message, prefix=prefix)


def locked(folder: Path) -> dict[str, Any]:
    """dvc.lock: commands, parameters and the hashes of all dependencies and outputs."""
    found: dict[str, Any] = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    return found


def declared(stage: str) -> list[str]:
    """The outputs of other stages that dvc.yaml lists as dependencies of this one; of a folder, its files."""
    name, _, round = stage.partition("@")
    one = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][name]
    deps = [dep.replace("${key}", round).replace("${item.prev}", "init") for dep in one.get("do", one)["deps"]]
    files = {
        "results/rounds": ["results/rounds/init.json", "results/rounds/r00.json"],
        "results/training": ["results/training/r00.json"],
    }
    return [file for dep in deps if dep.startswith(("runs/", "results/")) for file in files.get(dep, [dep])]


def as_nobody() -> list[str]:
    """The prefix that runs a command as an unprivileged user; empty where that is forbidden.

    Another user where this Python can be read by others, else this one under that user's number and name.
    """
    number = str(NOBODY)
    other = ["setpriv", "--reuid", number, "--regid", number, "--clear-groups"]
    renamed = ["unshare", "--user", "--map-user", number, "--map-group", number]
    return next((prefix for prefix in (other, renamed) if works(prefix)), [])


def without_network() -> list[str]:
    """The prefix that runs a command where there is no network, on a host of another name; empty where forbidden."""
    root = () if os.getuid() == 0 else ("--map-root-user",)
    found = ["unshare", "--net", "--uts", *root, sys.executable, "-c", BECOME]
    return found if works(found) else []


@cache
def _works(prefix: tuple[str, ...]) -> bool:
    try:
        done = subprocess.run(
            [*prefix, "sh", "-c", "python -c ''"], env=environment(ROOT, real=True), capture_output=True, check=False
        )
    except OSError:  # no such program
        return False
    return done.returncode == 0


def works(prefix: Sequence[str]) -> bool:
    """Whether a shell can start Python in this way, as DVC does."""
    return _works(tuple(prefix))


def give(folder: Path) -> Path:
    """Make a folder and all in it the unprivileged user's, if commands run as another user."""
    if as_nobody()[:1] == ["setpriv"]:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    return folder


def host() -> str:
    """The name of the host that stages ran on."""
    return ELSEWHERE if without_network() else socket.gethostname()
