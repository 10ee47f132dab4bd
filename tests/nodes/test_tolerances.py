"""What may differ when only the way of computing changes: batch sizes, threads, keys and values stored or not, and the
instructions of the processor."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from other_arithmetic import FEWER_INSTRUCTIONS, differences
from safetensors.numpy import load_file
from steps import array, change, forget, run

from dfusion_core.store import read_stage

FP32 = 1e-5  # of the largest value of an array
SHADE = 1  # of 255, in a picture
OTHER_KERNELS = 1e-3  # of the largest value, where also exp and softmax are computed in another way
ADAMW = 1e-2  # of what training changed: AdamW divides by gradients that may be near zero


def differs(stage: str, before: dict[str, Any]) -> dict[str, float]:
    """The largest difference of each float array, as a share of its largest value; of pictures, in shades."""
    found = {}
    for name, old in before.items():
        new, scale = array(stage, name), 1 if old.dtype == torch.uint8 else old.abs().max()
        found[name] = float((new.double() - old.double()).abs().max() / scale)
    return found


def arrays(stage: str) -> dict[str, torch.Tensor]:
    return {name: array(stage, name) for name in read_stage(stage, "r00").names}


def adapter(round: str) -> dict[str, np.ndarray]:
    return load_file(f"runs/{round}/train/adapter/pytorch_lora_weights.safetensors")


def trained_otherwise(before: dict[str, np.ndarray]) -> float:
    """The largest difference of a weight, as a share of the largest change that training made."""
    now, start = adapter("r00"), adapter("init")
    moved = max(np.abs(before[name] - start[name]).max() for name in before)
    return float(max(np.abs(now[name] - before[name]).max() for name in before) / moved)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("stage", "section", "size"),
    [("sample", "sample", 3), ("score", "reward", 3), ("fuse", "fuse", 3), ("evaluate", "evaluate", 3)],
)
def test_batch_sizes(project: Path, stage: str, section: str, size: int) -> None:
    before = arrays(stage)
    change(**{section: {"batch_size": size}})
    run(stage)
    found = differs(stage, before)
    assert found and all(value <= (SHADE if name == "picture" else FP32) for name, value in found.items()), found


@pytest.mark.few(1)
@pytest.mark.parametrize("keep_kv", ["none", 1])
def test_keys_and_values_stored_or_not(project: Path, keep_kv: str | int) -> None:
    """One of two references of a batch: then both are recomputed, as with none."""
    before = arrays("fuse")
    change(extract={"keep_kv": keep_kv})
    run("extract")
    run("fuse")
    found = differs("fuse", before)
    assert found["x"] <= FP32 and found["picture"] <= SHADE, found


@pytest.mark.few(1)
@pytest.mark.parametrize("micro_batch", [1, 3])
def test_micro_batches(project: Path, micro_batch: int) -> None:
    before = adapter("r00")
    change(train={"micro_batch": micro_batch})
    run("train")
    assert trained_otherwise(before) <= ADAMW


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sample", "score", "fuse", "evaluate"])
def test_threads(project: Path, two_threads: None, stage: str) -> None:
    before = arrays(stage)
    forget(stage)
    run(stage)
    found = differs(stage, before)
    assert all(value <= (SHADE if name == "picture" else FP32) for name, value in found.items()), found


@pytest.mark.slow
def test_threads_of_training(project: Path, two_threads: None) -> None:
    before = adapter("r00")
    forget("train")
    run("train")
    assert trained_otherwise(before) <= ADAMW


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the variables are those of x86")
def test_another_processor(project: Path) -> None:
    """Each stage with kernels for a processor without AVX. They are other kernels: something differs."""
    found = differences(project, FEWER_INSTRUCTIONS)
    for name, value in found.items():
        allowed = SHADE if name.endswith("/picture") else ADAMW if name == "train/adapter" else OTHER_KERNELS
        assert value <= allowed, f"{name}: {value}"
    assert max(found["sample/x"], found["fuse/x"]) > 0, found
    assert found.keys() >= {"sample/log_prob", "score/embedding", "extract/mask", "train/exp_avg", "evaluate/picture"}
