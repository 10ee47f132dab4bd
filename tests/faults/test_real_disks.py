"""Real disks: too small, read-only, mounted elsewhere (in a mount namespace of their own); limits of the shell."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from steps import content, forget

ROOT = Path(__file__).parents[2]
MOUNT = ("unshare", "--map-root-user", "--mount", "sh", "-ec")

pytestmark = pytest.mark.slow


def can_mount() -> bool:
    """Whether this user may mount something where nobody else sees it."""
    try:
        return subprocess.run([*MOUNT, "mount -t tmpfs tmpfs /mnt"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture
def small(project: Path) -> Path:
    """The finished tiny project, where a disk can be mounted on a folder."""
    if not can_mount():
        pytest.skip("needs unshare and the right to mount in a namespace")
    (project / "small").mkdir()
    return project


def run_on(mount: str, stage: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`python -m stages.STAGE r00` after a mount that only this process sees."""
    return run_after(f"mount {mount}", stage, *MOUNT, **more)


def run_after(preparation: str, stage: str, *shell: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = f"{preparation}; exec {shlex.quote(sys.executable)} -m stages.{stage} r00"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    return subprocess.run([*shell, command], capture_output=True, text=True, env=environment, check=False)


def is_message(done: subprocess.CompletedProcess[str], *words: str) -> bool:
    """Whether it ended with one error of these words."""
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.splitlines()[-1]
    return last.startswith("error: ") and all(word in last for word in words)


def test_a_full_disk_in_the_middle(small: Path) -> None:
    """The state of the first optimizer step does not fit; with a larger disk the same command finishes."""
    whole = content(Path("runs/r00/train"))
    forget("train")
    done = run_on("-t tmpfs -o size=24k tmpfs small", "train", DFUSION_SCRATCH="small")
    assert is_message(done, "small/", "/r00/train/", "no space left on device", "DFUSION_SCRATCH"), done.stderr
    assert not Path("runs/r00/train").exists()
    assert run_on("-t tmpfs -o size=10m tmpfs small", "train", DFUSION_SCRATCH="small").returncode == 0
    assert content(Path("runs/r00/train")) == whole


def test_a_disk_that_cannot_hold_the_stage_is_refused(small: Path) -> None:
    forget("sample")
    done = run_on("-t tmpfs -o size=40k tmpfs small", "sample", DFUSION_SCRATCH="small")
    assert is_message(done, "sample: r00 needs ", "sample.images_per_prompt"), done.stderr


def test_a_read_only_output_is_noticed_at_once(small: Path) -> None:
    forget("sample")
    done = run_on("--bind -o ro runs runs", "sample")
    assert is_message(done, "runs/r00 cannot be opened: read-only file system"), done.stderr
    assert "0 of" not in done.stderr and not list(Path(".dfusion/r00/sample").rglob("*.safetensors"))


def test_runs_is_another_mount_of_the_same_disk(small: Path) -> None:
    """Device numbers are equal, and yet no file can be renamed or linked from one to the other."""
    whole = content(Path("runs/r00/score"))
    elsewhere = Path(shutil.copytree("runs", "elsewhere"))
    shutil.rmtree(elsewhere / "r00/score")
    done = run_on("--bind elsewhere runs", "score")
    assert done.returncode == 0, done.stderr
    assert content(elsewhere / "r00/score") == whole
    assert not list(elsewhere.rglob(".*.new")) and not list(elsewhere.rglob(".*.old"))


def test_a_limit_on_the_size_of_files(project: Path) -> None:
    whole = content(Path("runs/r00/sample"))
    forget("sample")
    done = run_after("ulimit -f 8", "sample", "bash", "-ec")
    assert is_message(done, "file too large", "'ulimit -f'"), done.stderr
    assert run_after(":", "sample", "bash", "-ec").returncode == 0
    assert content(Path("runs/r00/sample")) == whole
