"""Every stage of a tiny project, crashed or refused where it touches the disk. Run by `test_crash_points.py`, or:

    python tests/faults/watched.py crash full --every      all points, not only the first of each place in the code
    python tests/faults/watched.py crash:sample@r00        one stage

The experiments are crash, full, closed, space and stop, as `experiments.py` defines them. Prints one line of JSON for
each experiment and stage: how many operations the stage makes (`points`), from how many different states of the disk
or at how many points it was tried (`tried`), and what went wrong (`failures`, which should be empty).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shim import build

from dfusion_core.store.paths import ROUND_STAGES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STAGES = ["init", "evaluate@init", *(f"{stage}@r00" for stage in ROUND_STAGES), "summary"]
SMALL = {
    "rounds": {"r00": {"prev": "init"}},
    "sample": {"num_steps": 3, "images_per_prompt": 2, "batch_size": 2},
    "fuse": {"first_t": 2, "batch_size": 1},
    "reward": {"batch_size": 2},
    "evaluate": {"images_per_prompt": 1, "batch_size": 2},
}


def make_project(folder: Path) -> Path:
    """A tiny project with a copy of the program, so that an edit during the run changes no fingerprint."""
    from dfusion_core.testing import tiny_params

    for name in ("dfusion_core", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "pretrain"))
    tiny_params(folder, **SMALL)
    return folder


def run_watched(project: Path, *arguments: str) -> Iterator[dict[str, Any]]:
    """Results of experiments, one by one, from a process with the shim below it. Raises RuntimeError if it fails."""
    with tempfile.TemporaryDirectory() as built, tempfile.TemporaryFile("w+") as errors:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "DFUSION_"))}
        environment = kept | {
            "LD_PRELOAD": str(build(Path(built))),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join([str(project), str(HERE)]),
        }
        command = [sys.executable, str(HERE / "experiments.py"), *arguments]
        with subprocess.Popen(
            command, cwd=project, text=True, env=environment, stdout=subprocess.PIPE, stderr=errors
        ) as process:
            assert process.stdout
            yield from (json.loads(line) for line in process.stdout if line.startswith("{"))
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(errors.read())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", help="EXPERIMENT or EXPERIMENT:STAGE")
    parser.add_argument("--every", action="store_true")
    given = parser.parse_args()
    memory = Path("/dev/shm")  # a disk that needs no patience
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        for result in run_watched(make_project(Path(folder)), *given.what, *(["--every"] if given.every else [])):
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
