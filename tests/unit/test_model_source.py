"""Finding a model's files: folders, single files, variants, the Hub; and that they stay the same."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from dfusion_core.errors import ModelError
from dfusion_core.models.loading import load_pipeline
from dfusion_core.models.pins import check_pin, pin
from dfusion_core.models.source import locate
from dfusion_core.params.sections import Model
from dfusion_core.store import remembered
from dfusion_core.store.provenance import hash_file
from dfusion_core.testing import tiny_model

TEXT = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/tokenizer.json",
    "unet/config.json",
    "vae/config.json",
)
PLAIN = (
    "text_encoder/model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
)
SHARDS = (
    "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
    "unet/diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
    "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
    "text_encoder/model.fp16.safetensors",
    "vae/diffusion_pytorch_model.fp16.safetensors",
)
NOT_READ = (
    "README.md",
    "unet/diffusion_pytorch_model.bin",
    "safety_checker/model.safetensors",
    "sd.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "text_encoder/pytorch_model.fp16.bin",
)


def folder(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)
    return path


def test_what_is_read_of_a_folder(tmp_path: Path) -> None:
    folder(tmp_path, *TEXT, *PLAIN, *SHARDS, *NOT_READ)
    assert locate(Model(id=str(tmp_path))).files == tuple(sorted(TEXT + PLAIN))
    assert locate(Model(id=str(tmp_path), variant="fp16")).files == tuple(sorted(TEXT + SHARDS))


def test_a_variant_that_is_not_there(tmp_path: Path) -> None:
    folder(tmp_path, *TEXT, *PLAIN, "unet/diffusion_pytorch_model.fp16.bin")
    with pytest.raises(ModelError) as caught:
        locate(Model(id=str(tmp_path), variant="fp16"))
    assert caught.value.message == (
        f"model.variant: unet of '{tmp_path}' has no safetensors of the variant fp16: there is "
        "unet/diffusion_pytorch_model.fp16.bin, unet/diffusion_pytorch_model.safetensors."
    )


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not in diffusers format: it has no model_index.json"):
        locate(Model(id=str(tmp_path)))


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "pytorch_model.bin"])
def test_a_pickle_is_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="is a pickle, which may run a program"):
        locate(Model(id=str(tmp_path / name)))


@pytest.mark.parametrize("name", ["nowhere", "./no/where", "no/where.safetensors", "a/b/c", "-x/y"])
def test_nothing_of_that_name(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        locate(Model(id=name))
    assert caught.value.message == f"model.id: there is no folder or file '{name}'."


@pytest.mark.parametrize(
    "kind, said",
    [
        ("StableDiffusionInpaintPipeline", "is a StableDiffusionInpaintPipeline, and this program knows"),
        ("PixArtAlphaPipeline", "is a PixArtAlphaPipeline"),
    ],
)
def test_another_kind_of_model(tmp_path: Path, kind: str, said: str) -> None:
    folder(tmp_path, *TEXT, *PLAIN)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    with pytest.raises(ModelError, match=said):
        load_pipeline(Model(id=str(tmp_path)))


def test_a_unet_for_inpainting(tmp_path: Path) -> None:
    import torch
    from diffusers import UNet2DConditionModel

    tiny_model(tmp_path)
    config = UNet2DConditionModel.load_config(tmp_path / "unet")
    torch.manual_seed(0)
    UNet2DConditionModel.from_config(config | {"in_channels": 9}).save_pretrained(tmp_path / "unet")
    with pytest.raises(ModelError, match="takes 9 channels and gives 4, not 4: it is not for text to image"):
        load_pipeline(Model(id=str(tmp_path)))


def test_the_same_files_elsewhere_are_the_same_model(tmp_path: Path) -> None:
    here, there = (folder(tmp_path / name, *TEXT, *PLAIN) for name in ("here", "there"))
    first, second = Model(id=str(here)), Model(id=str(there))
    pinned = pin(first, locate(first))
    assert pinned["files"]["unet/config.json"] == hashlib.sha256(b"unet/config.json").hexdigest()
    check_pin(pinned, second, locate(second))


def test_other_weights_are_refused(tmp_path: Path) -> None:
    model = Model(id=str(folder(tmp_path, *TEXT, *PLAIN)))
    pinned = pin(model, locate(model))
    (tmp_path / PLAIN[1]).write_text("other weights")
    with pytest.raises(ModelError) as caught:
        check_pin(pinned, model, locate(model))
    assert f"is not the model that this run began with: {PLAIN[1]} differ" in caught.value.message


def test_large_files_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFUSION_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(remembered, "LARGE", 1)
    hashed: list[Path] = []

    def count(file: Path) -> str:
        hashed.append(file)
        return hash_file(file)

    monkeypatch.setattr(remembered, "hash_file", count)
    model = Model(id=str(folder(tmp_path / "model", *TEXT, *PLAIN)))
    first = pin(model, locate(model))
    assert len(hashed) == len(TEXT + PLAIN)
    assert pin(model, locate(model)) == first and len(hashed) == len(TEXT + PLAIN)
    changed = tmp_path / "model" / PLAIN[0]
    changed.write_text(changed.read_text()[::-1])  # the same size
    assert pin(model, locate(model))["files"][PLAIN[0]] == hashlib.sha256(PLAIN[0][::-1].encode()).hexdigest()
    assert hashed[len(TEXT + PLAIN) :] == [changed]
    before = changed.stat()
    changed.write_text(PLAIN[0])  # and the old time of the last write: the time of the last change tells
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert pin(model, locate(model)) == first
