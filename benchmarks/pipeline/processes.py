"""P17: a stage run by two processes against one, a thread each."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from ..bench import Bench
from ..result import Check, Result, at_most
from .clone import ROOT, call, clone

CHANGES = {"sample": {"images_per_prompt": 24}, "extract": {"keep_kv": "none"}}
BEFORE = ("init", "sample", "score", "extract", "fuse", "adopt")
TORCHRUN = ("torchrun", "--standalone", "--nproc_per_node", "2", "-m")
LAUNCHERS = {"one": (sys.executable, "-m"), "two": TORCHRUN}
ROUNDING = 1e-4  # of trained weights: their gradients are added in another order


def two_processes(bench: Bench) -> list[Result]:
    """Whole stages of the built-in model, start-up and all: each process on a core of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clone(folder)
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        for section, values in CHANGES.items():
            params[section] |= values
        (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        for stage in BEFORE:
            call(folder, sys.executable, "-m", f"stages.{stage}", *(() if stage == "init" else ("r00",)))
        return [compared(folder, stage, max(1, bench.sizes.repeats // 2)) for stage in ("sample", "train")]


def compared(folder: Path, stage: str, repeats: int) -> Result:
    """One process over two, in turns, and whether they made the same."""
    seconds: dict[str, list[float]] = {name: [] for name in LAUNCHERS}
    made: dict[str, dict[str, torch.Tensor]] = {}
    for _ in range(repeats):
        for name, launcher in LAUNCHERS.items():
            shutil.rmtree(folder / "runs" / "r00" / stage, ignore_errors=True)
            start = time.perf_counter()
            call(folder, *launcher, f"stages.{stage}", "r00", OMP_NUM_THREADS="1")
            seconds[name].append(time.perf_counter() - start)
            made[name] = output(folder / "runs" / "r00" / stage)
    off = max(float((made["two"][key] - value).abs().max()) for key, value in made["one"].items())
    check = Check("what two processes made, against one", off, at_most(0 if stage == "sample" else ROUNDING))
    ratios = tuple(one / two for one, two in zip(seconds["one"], seconds["two"], strict=True))
    return Result(
        "P17",
        f"{stage} by two processes, times as fast as by one",
        ratios,
        checks=(check,),
        note="a thread each, start-up included",
        seconds={k: tuple(v) for k, v in seconds.items()},
    )


def output(folder: Path) -> dict[str, torch.Tensor]:
    """Trajectories, or the adapter."""
    adapter = folder / "adapter" / "pytorch_lora_weights.safetensors"
    if adapter.exists():
        return load_file(adapter)
    import zarr

    return {"x": torch.from_numpy(zarr.open_array(folder / "arrays.zarr", path="x", mode="r")[:])}
