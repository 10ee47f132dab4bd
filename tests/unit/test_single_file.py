"""Checkpoints of one file: written here in the key names of the original code, read through the pipeline's own way."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import AutoConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from dfusion_core.errors import ModelError
from dfusion_core.models.loading import load_pipeline
from dfusion_core.models.policy import load_policy
from dfusion_core.models.single_file import write_configs
from dfusion_core.params.sections import Model, Sample
from dfusion_core.testing import tiny_model

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_name(name: str, per_block: int, up_attention: list[bool]) -> str:
    """A diffusers name of the U-Net in the original code's names. up_attention: which up blocks have attention."""
    for ours, theirs in OUTER.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    block, kind, number, rest = re.fullmatch(
        r"(\w+?)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)",
        re.sub(r"^(down|up)_blocks\.", r"\1_", name),
    ).groups()
    k, side = int(number), block.split("_")
    if kind == "resnets":
        first, _, last = rest.rpartition(".")
        rest = f"{RESNET[first]}.{last}"
    if block == "mid_block":
        return f"middle_block.{1 if kind == 'attentions' else 2 * k}.{rest}"
    i = int(side[1])
    if side[0] == "down":
        place = 1 + i * (per_block + 1) + (per_block if kind == "downsamplers" else k)
        rest = rest.replace("conv.", "op.") if kind == "downsamplers" else rest
        return f"input_blocks.{place}.{int(kind == 'attentions')}.{rest}"
    place = i * (per_block + 1) + (per_block if kind == "upsamplers" else k)
    inner = {"resnets": 0, "attentions": 1, "upsamplers": 1 + up_attention[i]}[kind]
    return f"output_blocks.{place}.{inner}.{rest}"


def vae_name(name: str, blocks: int) -> str:
    """A diffusers name of the autoencoder in the original code's names."""
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda m: f"up.{blocks - 1 - int(m[1])}.block.", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name)
    for ours, theirs in (
        ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
        ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
        ("conv_shortcut", "nin_shortcut"),
        ("mid_block.attentions.0.to_", "mid.attn_1."),
        ("conv_norm_out", "norm_out"),
    ):
        name = name.replace(ours, theirs)
    return name


def checkpoint(pipeline: Any) -> dict[str, torch.Tensor]:
    """The weights of a Stable Diffusion 1.x pipeline as the original code stores them."""
    unet, vae = pipeline.unet, pipeline.vae
    with_attention = [bool(getattr(block, "attentions", None)) for block in unet.up_blocks]
    found = {
        f"model.diffusion_model.{unet_name(n, unet.config.layers_per_block, with_attention)}": v
        for n, v in unet.state_dict().items()
    }
    for name, value in vae.state_dict().items():
        theirs = vae_name(name, len(vae.config.block_out_channels))
        is_projection = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", theirs)  # 1x1 convolutions there
        found[f"first_stage_model.{theirs}"] = value[..., None, None] if is_projection else value
    for name, value in pipeline.text_encoder.state_dict().items():
        whole = name if name.startswith("text_model.") else f"text_model.{name}"
        found[f"cond_stage_model.transformer.{whole}"] = value
    return {name: value.clone().contiguous() for name, value in found.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny model in diffusers format, with attention in the autoencoder as the real ones have it."""
    folder = tiny_model(tmp_path_factory.mktemp("model"))
    torch.manual_seed(1)
    config = AutoencoderKL.load_config(folder / "vae") | {"mid_block_add_attention": True}
    AutoencoderKL.from_config(config).save_pretrained(folder / "vae")
    yield folder


def test_a_file_is_the_model_it_was_made_from(folder: Path, tmp_path: Path) -> None:
    """The same predictions and pictures, bit for bit; configurations from the folder that model.config names."""
    whole = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True, safety_checker=None)
    save_file(checkpoint(whole), tmp_path / "model.safetensors")
    configs = tmp_path / "configs"
    for file in folder.rglob("*"):
        if file.suffix == ".json":
            (configs / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (configs / file.relative_to(folder)).write_bytes(file.read_bytes())
    sample = Sample(num_steps=4)
    expected = load_policy(Model(id=str(folder), device="cpu"), sample, None)
    found = load_policy(Model(id=str(tmp_path / "model.safetensors"), config=str(configs), device="cpu"), sample, None)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    texts = ["a heart holding a balloon", "the star above the moon"]
    for step in (0, 3):
        torch.testing.assert_close(
            found.predict_noise(x, step, found.embed(texts)),
            expected.predict_noise(x, step, expected.embed(texts)),
            rtol=0,
            atol=0,
        )
    assert (found.decode(x) == expected.decode(x)).all()


def shapes_of(width: int, extra: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    """The one tensor that tells the kinds of checkpoints apart, and further names."""
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    return {key: torch.zeros(2, width)} | {name: torch.zeros(1) for name in extra}


@pytest.mark.parametrize(
    "tensors, config, said",
    [
        (shapes_of(1024), None, "is a Stable Diffusion 2.x model; its weights do not tell what it predicts"),
        (shapes_of(640), None, "is no checkpoint of Stable Diffusion 1, 2 or XL"),
        ({"lora_unet_mid.alpha": torch.zeros(1)}, None, "is no checkpoint of Stable Diffusion 1, 2 or XL"),
        (shapes_of(768), "sd-15", "'sd-15' is neither a folder nor one of sd15, sd15-v, sd21, sd21-v"),
        (shapes_of(768), None, "cannot be loaded"),  # recognised, but there is nothing in it
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, tensors: Any, config: str | None, said: str) -> None:
    save_file(tensors, tmp_path / "some.safetensors")
    with pytest.raises(ModelError, match=re.escape(said)):
        load_pipeline(Model(id=str(tmp_path / "some.safetensors"), config=config))


def test_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "some.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}garbage")
    with pytest.raises(ModelError, match="some.safetensors"):
        load_pipeline(Model(id=str(tmp_path / "some.safetensors")))


def parameters(make: Callable[[], torch.nn.Module]) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in make().parameters())


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "family, unet, text",
    [
        ("sd15", 859_520_964, [123_060_480]),
        ("sd21", 865_910_724, [340_387_840]),
        ("sdxl", 2_567_463_684, [123_060_480, 694_659_840]),
    ],
)
def test_the_known_configurations_have_the_published_sizes(
    tmp_path: Path, family: str, unet: int, text: list[int]
) -> None:
    """Parameters of the U-Net, the autoencoder and the text encoders; nothing is allocated."""
    write_configs(tmp_path, family, "epsilon")
    config = UNet2DConditionModel.load_config(tmp_path / "unet")
    assert parameters(lambda: UNet2DConditionModel.from_config(config)) == unet
    autoencoder = AutoencoderKL.load_config(tmp_path / "vae")
    assert parameters(lambda: AutoencoderKL.from_config(autoencoder)) == 83_653_863
    found = []
    for number in range(len(text)):
        suffix = "_2" if number else ""
        kind = json.loads((tmp_path / "model_index.json").read_text())[f"text_encoder{suffix}"][1]
        text_config = AutoConfig.from_pretrained(tmp_path / f"text_encoder{suffix}")
        make = {"CLIPTextModel": CLIPTextModel, "CLIPTextModelWithProjection": CLIPTextModelWithProjection}[kind]
        found.append(parameters(partial(make, text_config)))
        tokenizer = CLIPTokenizer.from_pretrained(tmp_path / f"tokenizer{suffix}")
        assert tokenizer("a cat").input_ids == [49406, 320, 2368, 49407]
    assert found == text
