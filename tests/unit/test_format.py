"""The formats of this release, against files of this release: python -m tests.unit.test_format writes them anew."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from dfusion_core.commands.export.kohya import kohya_file, kohya_tensors
from dfusion_core.errors import StoreError
from dfusion_core.models.lora import FILE, add_lora, load_lora, read_lora, save_lora, trainable
from dfusion_core.params import Lora
from dfusion_core.store import open_stage, read_stage, verify
from dfusion_core.store.manifest import MANIFEST, sealed
from dfusion_core.store.schema import FORMAT_VERSION, OLDEST_VERSION
from dfusion_core.testing import tiny_model

DATA = Path(__file__).parents[1] / "data" / f"format_{FORMAT_VERSION}"
LOG_PROB = np.array([[0.5, -1.25, 3.0], [0.0, 2.0**-20, -7.5]], np.float32)
IMAGES = pd.DataFrame(
    {"image": [0, 1], "prompt_id": [0, 0], "prompt": ['a cat, "one"', "ä ☂"], "sample": [0, 1], "seed": [2**62 + 1, 3]}
)
STORE, ADAPTER, EXPORT = Path("runs/r00/sample"), Path("adapter"), Path("export/dfusion-fixture.safetensors")
FREE = {"fingerprint", "ingredients", "environment", "checksum"}  # of a manifest: other code and versions


def write_store() -> None:
    with open_stage("sample", round="r00", params={"sample": {"eta": 1.0}}) as run:
        for rows in run.unfinished(2, 2):
            run.write(rows, log_prob=LOG_PROB)
        run.write_table("images", IMAGES)


def unet(folder: Path) -> Any:
    from diffusers import UNet2DConditionModel

    return filled(UNet2DConditionModel.from_pretrained(folder / "unet"))


@torch.no_grad()
def filled(unet: Any) -> Any:
    """The U-Net with weights that no version of a library draws in another way."""
    for number, (_, weight) in enumerate(sorted(unet.named_parameters())):
        wave = (torch.arange(weight.numel()) * 0.7 + number).sin()
        weight.copy_(wave.view_as(weight) * 2 / weight[0].numel() ** 0.5)
    return unet.eval().requires_grad_(False)


@torch.no_grad()
def predict(unet: Any) -> torch.Tensor:
    """A noise prediction for inputs that depend on no random number generator."""
    x = torch.linspace(-1, 1, 4 * 8 * 8).view(1, 4, 8, 8)
    text = torch.linspace(-2, 2, 16 * 16).view(1, 16, 16).sin()
    prediction: torch.Tensor = unet(x, torch.tensor([401]), text).sample
    return prediction


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


def test_a_store_of_this_version_is_read(workspace: Path) -> None:
    shutil.copytree(DATA / STORE, STORE)
    assert verify("runs") == []
    data = read_stage("sample", "r00")
    np.testing.assert_array_equal(data.rows("log_prob", [0, 1]), LOG_PROB)
    pd.testing.assert_frame_equal(data.table("images"), IMAGES)


def test_the_same_rows_give_the_same_bytes(workspace: Path) -> None:
    """Arrays, tables and the shape of the manifest; what differs is what made them."""
    write_store()
    written, kept = (sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file()) for f in (STORE, DATA / STORE))
    assert written == kept
    for name in kept:
        if name.name != MANIFEST:
            assert (STORE / name).read_bytes() == (DATA / STORE / name).read_bytes(), name
    now, then = (json.loads((folder / MANIFEST).read_text()) for folder in (STORE, DATA / STORE))
    assert now.keys() == then.keys() and now["ingredients"].keys() == then["ingredients"].keys()
    assert {key: now[key] for key in now.keys() - FREE} == {key: then[key] for key in then.keys() - FREE}


@pytest.mark.parametrize("version", [1, 2])
def test_a_store_of_an_earlier_version_is_refused(workspace: Path, version: int) -> None:
    """One that the program of that time wrote: with the command that makes it again, wherever it is an input."""
    shutil.copytree(DATA.with_name(f"format_{version}") / STORE, STORE)
    said = rf"manifest\.json has format_version {version}.*dvc repro -f -s sample@r00"
    for use in (
        lambda: read_stage("sample", "r00"),
        lambda: open_stage("score", round="r00", inputs={"sample": STORE}),
    ):
        with pytest.raises(StoreError, match=said):
            use()
    assert f"format_version {version}" in str(verify("runs")[0])


@pytest.mark.parametrize(
    ("version", "hint"),
    [
        (FORMAT_VERSION + 1, "and a newer dfusion reads it"),
        (99, "and a newer dfusion reads it"),
        (OLDEST_VERSION - 1, "make it again with 'dvc repro -f -s sample@r00'"),
    ],
)
def test_a_store_of_another_version_is_refused(workspace: Path, version: int, hint: str) -> None:
    shutil.copytree(DATA / STORE, STORE)
    manifest = json.loads((STORE / MANIFEST).read_text())
    (STORE / MANIFEST).write_text(json.dumps(sealed(manifest | {"format_version": version})))
    expected = f"runs/r00/sample/manifest.json has format_version {version}; this program reads {FORMAT_VERSION}"
    for use in (
        lambda: read_stage("sample", "r00"),
        lambda: open_stage("score", round="r00", inputs={"sample": STORE}),
    ):
        with pytest.raises(StoreError, match=f"{expected}.*{hint}"):
            use()
    assert expected.split("manifest.json ")[1] in str(verify("runs")[0])


def test_an_adapter_of_this_version_does_what_it_did(model: Path) -> None:
    """Through the pipeline's own loader, merged and separate, and through diffusers'."""
    expected = load_file(DATA / "predictions.safetensors")
    torch.testing.assert_close(predict(unet(model)), expected["base"], rtol=1e-4, atol=1e-5)
    assert float((expected["adapter"] - expected["base"]).abs().max()) > 0.05
    for train in (True, False):
        loaded = unet(model)
        load_lora(loaded, DATA / ADAPTER, train=train)
        torch.testing.assert_close(predict(loaded), expected["adapter"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("folder", "name", "allowed"), [(ADAPTER, FILE, 1e-4), (EXPORT.parent, EXPORT.name, 5e-3)])
def test_diffusers_loads_what_was_exported(model: Path, folder: Path, name: str, allowed: float) -> None:
    from diffusers import StableDiffusionPipeline

    expected = load_file(DATA / "predictions.safetensors")
    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None, use_safetensors=True)
    filled(pipeline.unet)
    pipeline.load_lora_weights(DATA / folder, weight_name=name, use_safetensors=True)
    torch.testing.assert_close(predict(pipeline.unet.eval()), expected["adapter"], rtol=0, atol=allowed)


def test_an_adapter_is_written_as_it_was(model: Path, tmp_path: Path) -> None:
    loaded = unet(model)
    load_lora(loaded, DATA / ADAPTER, train=True)
    save_lora(loaded, tmp_path)
    assert (tmp_path / FILE).read_bytes() == (DATA / ADAPTER / FILE).read_bytes()
    assert export() == (DATA / EXPORT).read_bytes()


def export() -> bytes:
    tensors, _ = read_lora(DATA / ADAPTER)
    return kohya_file(kohya_tensors(tensors, 1, "fp16", None), {"ss_network_dim": "1"})[0]


def write_fixtures() -> None:
    """Everything that the README names."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_store()
        shutil.copytree(STORE, DATA / STORE, dirs_exist_ok=True)
        made = unet(tiny_model(Path(folder)))
        base = predict(made)
        add_lora(made, Lora(rank=1, targets=("attn2.to_v",)), seed=0)
        for number, (name, parameter) in enumerate(trainable(made).items()):
            if "lora_B" in name:
                parameter.data = torch.linspace(-8, 8, parameter.numel()).view_as(parameter) + number / 10
        save_lora(made, DATA / ADAPTER)
        save_file({"base": base, "adapter": predict(made)}, DATA / "predictions.safetensors")
    (DATA / EXPORT).parent.mkdir(exist_ok=True)
    (DATA / EXPORT).write_bytes(export())


if __name__ == "__main__":
    write_fixtures()
