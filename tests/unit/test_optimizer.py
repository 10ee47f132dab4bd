"""AdamW with moments of 32 and of 8 bits: saved and put back, it goes on as if it had not stopped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dfusion_core.errors import ParamsError, StoreError
from dfusion_core.params.sections import Train
from dfusion_core.training.optimizer import (
    epsilon_share,
    from_arrays,
    load_optimizer,
    make_optimizer,
    save_optimizer,
    second_moment,
    to_arrays,
)

SHAPES = {"layer.lora_A": (4, 64), "layer.lora_B": (64, 96)}  # bitsandbytes keeps the first one in 32 bits


def started(kind: str) -> tuple[dict[str, torch.nn.Parameter], Any]:
    random = torch.Generator().manual_seed(0)
    weights = {name: torch.nn.Parameter(torch.randn(shape, generator=random)) for name, shape in SHAPES.items()}
    return weights, make_optimizer(Train(optimizer=kind, learning_rate=1e-2), list(weights.values()))


def step(weights: dict[str, torch.nn.Parameter], optimizer: Any, times: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for _ in range(times):
        for weight in weights.values():
            weight.grad = torch.randn(weight.shape, generator=random)
        optimizer.step()


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_it_goes_on_where_it_stopped(kind: str, tmp_path: Path) -> None:
    if kind == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    weights, optimizer = started(kind)
    step(weights, optimizer, 3, seed=1)
    other, again = started(kind)
    with torch.no_grad():
        for name, weight in other.items():
            weight.copy_(weights[name])
    file = tmp_path / "optimizer.safetensors"
    save_optimizer(optimizer, weights, file)
    load_optimizer(again, other, file)
    for one, run in ((weights, optimizer), (other, again)):
        step(one, run, 2, seed=2)
    for name, weight in weights.items():
        assert torch.equal(weight, other[name]), name


def test_eight_bits_are_near_and_small(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    (plain, torchs), (small, theirs) = started("adamw"), started("adamw_8bit")
    for weights, optimizer in ((plain, torchs), (small, theirs)):
        step(weights, optimizer, 5, seed=1)
    for name, weight in plain.items():
        assert (weight - small[name]).abs().max() < 1e-2  # five steps of 1e-2 went up to 5e-2
    exact, found = (second_moment(run.state[one["layer.lora_B"]]) for one, run in ((plain, torchs), (small, theirs)))
    assert (exact - found).abs().max() < 0.05 * exact.max()
    shares = [epsilon_share(run, one) for one, run in ((plain, torchs), (small, theirs))]
    assert shares[1]["A"] == pytest.approx(shares[0]["A"], rel=1e-3) and 0 <= shares[1]["B"] < 1e-3
    kept = to_arrays(theirs, small)
    assert kept["state1/layer.lora_B"].dtype == "uint8" and kept["state1/layer.lora_A"].dtype == "float32"
    assert kept["absmax1/layer.lora_B"].size == 64 * 96 // 256


@pytest.mark.parametrize("first", ["adamw", "adamw_8bit"])
def test_the_state_of_the_other_one_is_refused(first: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    weights, optimizer = started(first)
    step(weights, optimizer, 1, seed=1)
    file = tmp_path / "optimizer.safetensors"
    save_optimizer(optimizer, weights, file)
    other, another = started("adamw_8bit" if first == "adamw" else "adamw")
    with pytest.raises(StoreError) as caught:
        load_optimizer(another, other, file)
    assert "train.optimizer" in str(caught.value) and str(file) in str(caught.value)


def test_damaged_moments_of_eight_bits() -> None:
    pytest.importorskip("bitsandbytes")
    weights, optimizer = started("adamw_8bit")
    step(weights, optimizer, 1, seed=1)
    whole = to_arrays(optimizer, weights)
    other, another = started("adamw_8bit")
    for key in ("qmap2/layer.lora_B", "absmax1/layer.lora_B", "state2/layer.lora_A", "step/layer.lora_A"):
        with pytest.raises(ValueError, match=key):
            from_arrays(another, other, {name: array for name, array in whole.items() if name != key})
    key = "absmax1/layer.lora_B"
    with pytest.raises(ValueError, match=key):
        from_arrays(another, other, whole | {key: whole[key] * float("nan")})


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ParamsError) as caught:
        started("adamw_8bit")
    said = str(caught.value)
    assert "train.optimizer" in said and "adamw_8bit" in said and "pip install bitsandbytes" in said
