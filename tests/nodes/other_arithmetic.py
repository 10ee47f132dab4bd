"""What another processor or device changes: every stage of r00 once more from the same inputs, and compared.

    python tests/nodes/other_arithmetic.py FOLDER                  # a processor that knows fewer instructions
    python tests/nodes/other_arithmetic.py FOLDER --device cuda    # another device

FOLDER holds a run that is finished, made by this very program; a copy of it is worked in. Prints a table: for each
array and tensor the largest difference, as a share of its largest value; of pictures, in shades of 255; of the
adapter, as a share of the largest change that training made.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from dfusion_core.store import read_stage  # noqa: E402

# torch's own kernels, oneDNN and MKL without AVX: what they choose on a processor of another kind.
FEWER_INSTRUCTIONS = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
STAGES = {
    "sample": ("sample",),
    "score": ("score",),
    "extract": ("extract", "kv"),
    "fuse": ("fuse",),
    "train": ("train",),
    "evaluate": ("evaluate",),
}
AGAIN = Path("again")


def differences(folder: Path, variables: dict[str, str], device: str | None = None) -> dict[str, float]:
    """By `stage/array`, what comes out differently in a process with other variables or on another device."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = shutil.copytree(folder, Path(temporary, "copy"), ignore=shutil.ignore_patterns(".dvc", ".git"))
        if device:
            params = yaml.safe_load((copy / "params.yaml").read_text())
            params["model"] = {**params["model"], "device": device}
            (copy / "params.yaml").write_text(yaml.safe_dump(params))
        done = subprocess.run(
            [sys.executable, __file__, str(copy), "--again"],
            text=True,
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        )
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        return compared(copy)


def again(folder: Path) -> None:
    """In a copy of a run: make each output once more, put it beside the others, and the old one back."""
    os.chdir(folder)
    for stage, outputs in STAGES.items():
        for name in outputs:
            Path("runs/r00", name).rename(f"{name} before")
        getattr(import_module(f"stages.{stage}"), stage)("r00")
        for name in outputs:
            AGAIN.mkdir(exist_ok=True)
            Path("runs/r00", name).rename(AGAIN / name)
            Path(f"{name} before").rename(Path("runs/r00", name))


def compared(folder: Path) -> dict[str, float]:
    """The largest differences of what is in `again` from the run."""
    here = Path.cwd()
    os.chdir(folder)
    try:
        return {
            f"{name}/{array}": value
            for outputs in STAGES.values()
            for name in outputs
            for array, value in of_output(name).items()
        }
    finally:
        os.chdir(here)


def of_output(name: str) -> dict[str, float]:
    """Of one output."""
    if name == "train":
        return of_training()
    import zarr

    before = read_stage(name, "r00")
    now: Any = zarr.open_group(AGAIN / name / "arrays.zarr", mode="r") if before.names else {}
    return {array: largest(before.array(array)[:], np.asarray(now[array][:])) for array in before.names}


def of_training() -> dict[str, float]:
    """Of the adapter, as a share of what training changed, and of AdamW's first moment: the gradient."""
    file, moments = "adapter/pytorch_lora_weights.safetensors", "optimizer.safetensors"
    start = load_file(Path("runs/init/train", file))
    before, now = (load_file(Path(folder, "train", file)) for folder in ("runs/r00", AGAIN))
    moved = max(np.abs(before[name] - start[name]).max() for name in before)
    apart = max(np.abs(before[name] - now[name]).max() for name in before)
    old, new = (load_file(Path(folder, "train", moments)) for folder in ("runs/r00", AGAIN))
    first = [name for name in old if name.startswith("exp_avg/")]
    return {
        "adapter": float(apart / moved),
        "exp_avg": largest(*(np.concatenate([moment[name].ravel() for name in first]) for moment in (old, new))),
    }


def largest(before: np.ndarray[Any, Any], now: np.ndarray[Any, Any]) -> float:
    """The largest difference: of bytes as it is, of a mask the share that turned over, else of the largest value."""
    if before.dtype == bool:
        return float((before != now).mean())
    apart = np.abs(now.astype(np.float64) - before.astype(np.float64)).max()
    return float(apart if before.dtype == np.uint8 else apart / np.abs(before).max())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", help="one that torch knows; without it, a processor with fewer instructions")
    parser.add_argument("--again", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.again:
        again(given.folder)
        return
    found = differences(given.folder, {} if given.device else FEWER_INSTRUCTIONS, given.device)
    print("\n".join(f"{name:24} {value:.1e}" for name, value in found.items()))


if __name__ == "__main__":
    main()
