"""A compiled U-Net samples and trains as the plain one does, to rounding."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from steps import array, change, forget, policy_of, run

from dfusion_core.errors import ModelError
from dfusion_core.models.compiling import compile_unet

COMPILED = {"model": {"compile": True}}
ADAPTER = Path("runs/r00/train/adapter/pytorch_lora_weights.safetensors")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_stages_with_a_compiled_model(project: Path) -> None:
    plain, trained = array("sample", "x"), load_file(ADAPTER)
    change(**COMPILED)
    forget("sample")
    run("sample")
    assert 0 < (array("sample", "x") - plain).abs().max() < 1e-3  # another order of additions
    for stage in ("score", "extract", "fuse", "adopt", "train"):  # each is made from the one before
        forget(stage)
        run(stage)
    again = load_file(ADAPTER)
    for name, value in trained.items():
        assert torch.allclose(again[name], value, atol=1e-3)
    assert any(not again[name].equal(value) for name, value in trained.items())


@pytest.mark.slow
def test_a_backend_that_fails_is_named(project: Path) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler")

    policy = policy_of("init")
    compile_unet(policy.unet, backend=broken)  # torch takes a function too
    x = torch.zeros(1, *policy.latent_shape)
    with pytest.raises(ModelError, match="model.compile: the U-Net cannot be compiled here"):
        policy.predict_noise(x, 0, policy.embed(["a"]))
