"""Exported adapters of the real topologies do in diffusers' own loader what they do here; layer names are kohya's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file

from dfusion_core.commands.export.base_model import OPEN, Base, family
from dfusion_core.commands.export.kohya import kohya_file, kohya_metadata, kohya_tensors, sgm_name
from dfusion_core.commands.export.proof import largest, predict, prove
from dfusion_core.errors import ExportError
from dfusion_core.models.lora import FILE, adapter_tensors, add_lora, save_lora, trainable
from dfusion_core.params import Lora

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
SMALL = {"sample_size": 16, "norm_num_groups": 4, "cross_attention_dim": 12, "attention_head_dim": 4}
CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
SD = {
    **SMALL,
    "block_out_channels": (8, 8, 16, 16),
    "layers_per_block": 2,
    "down_block_types": (CROSS_DOWN,) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + (CROSS_UP,) * 3,
}
SDXL = {
    **SMALL,
    "block_out_channels": (8, 16, 16),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "down_block_types": ("DownBlock2D",) + (CROSS_DOWN,) * 2,
    "up_block_types": (CROSS_UP,) * 2 + ("UpBlock2D",),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + 10,
}
FULL = {**SD, "sample_size": 64, "norm_num_groups": 32, "block_out_channels": (320, 640, 1280, 1280)}
MODELS: dict[str, dict[str, Any]] = {"sd15": SD, "sd21": {**SD, "use_linear_projection": True}, "sdxl": SDXL}
BASE = Base(id="some/model", on_hub=True, version="sd_v1", v_prediction=False, sgm=False, licence=OPEN)


def fresh(model: str) -> Any:
    """diffusers' pipeline around a new U-Net with random weights, always the same ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**MODELS[model]).eval().requires_grad_(False)
    parts: dict[str, Any] = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    parts |= {"unet": unet, "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False)}
    if model == "sdxl":
        return StableDiffusionXLPipeline(**parts, text_encoder_2=None, tokenizer_2=None)
    return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def trained(model: str, config: LoraConfig | None = None) -> Any:
    """A U-Net whose adapter has an effect, as after training: A and B are random and not zero."""
    unet = fresh(model).unet
    if config:
        unet.add_adapter(config)
    else:
        add_lora(unet, Lora(rank=3, targets=(*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")), seed=0)
    random = torch.Generator().manual_seed(1)
    for parameter in trainable(unet).values():
        parameter.data.normal_(0, 0.2, generator=random)
    return unet


def write(unet: Any, folder: Path, model: str, dtype: str, alpha: float = 3) -> Path:
    sgm = MODELS[model]["layers_per_block"] if model == "sdxl" else None
    tensors = kohya_tensors(adapter_tensors(unet), alpha, dtype, sgm)
    content, _ = kohya_file(tensors, kohya_metadata(BASE, "x", 3, alpha, (128, 128)))
    folder.mkdir(exist_ok=True)
    (folder / f"{dtype}.safetensors").write_bytes(content)
    return folder / f"{dtype}.safetensors"


def loaded(model: str, file: Path) -> torch.Tensor:
    """Noise prediction of a fresh pipeline after diffusers' public loader."""
    pipeline = fresh(model)
    pipeline.load_lora_weights(file.parent, weight_name=file.name, use_safetensors=True)
    return predict(pipeline.unet)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_both_files_do_what_the_adapter_does(model: str, tmp_path: Path) -> None:
    unet = trained(model)
    ours, base = predict(unet), predict(fresh(model).unet)
    effect = largest(ours - base)
    assert effect > 0.1 * largest(base)
    torch.testing.assert_close(loaded(model, save_lora(unet, tmp_path)), ours, rtol=0, atol=1e-6)
    torch.testing.assert_close(loaded(model, write(unet, tmp_path, model, "fp32")), ours, rtol=0, atol=1e-6)
    error = largest(loaded(model, write(unet, tmp_path, model, "fp16")) - ours)
    assert 0 < error < 5e-3 * effect


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_alpha_is_a_factor(model: str, tmp_path: Path) -> None:
    """Rank 2 and alpha 5: both files keep the factor 2.5, in every layer."""
    unet = trained(model, LoraConfig(r=2, lora_alpha=5, target_modules=list(ATTENTION)))
    ours = predict(unet)
    torch.testing.assert_close(loaded(model, save_lora(unet, tmp_path)), ours, rtol=0, atol=1e-6)
    torch.testing.assert_close(loaded(model, write(unet, tmp_path, model, "fp32", alpha=5)), ours, rtol=0, atol=1e-6)
    assert largest(loaded(model, write(unet, tmp_path, model, "fp32", alpha=2)) - ours) > 1e-2


@pytest.mark.parametrize("model", ["sd15", "sd21"])
def test_merging_the_file_by_hand(model: str, tmp_path: Path) -> None:
    """W + alpha / rank B A, as ComfyUI and A1111 do it, on layers that are found by their names alone."""
    unet = trained(model)
    tensors = load_file(write(unet, tmp_path, model, "fp32", alpha=3))
    merged = fresh(model).unet
    layers = {"lora_unet_" + name.replace(".", "_"): layer for name, layer in merged.named_modules()}
    for key in {name.split(".")[0] for name in tensors}:
        down, up = tensors[f"{key}.lora_down.weight"], tensors[f"{key}.lora_up.weight"]
        factor = tensors[f"{key}.alpha"].item() / down.shape[0]
        layers[key].weight += factor * (up.flatten(1) @ down.flatten(1)).view_as(layers[key].weight)
    torch.testing.assert_close(predict(merged), predict(unet), rtol=1e-4, atol=1e-5)


def test_names_of_sd15() -> None:
    """Some of kohya's keys for SD 1.5, written down by hand, with the shapes of a linear layer and a convolution."""
    tensors = kohya_tensors(adapter_tensors(trained("sd15")), 3, "fp16")
    transformers = (
        {f"down_blocks_{b}_attentions_{a}" for b in (0, 1, 2) for a in (0, 1)}
        | {f"up_blocks_{b}_attentions_{a}" for b in (1, 2, 3) for a in (0, 1, 2)}
        | {"mid_block_attentions_0"}
    )
    inner = {f"{attention}_to_{x}" for attention in ("attn1", "attn2") for x in ("q", "k", "v", "out_0")}
    inner |= {"ff_net_0_proj", "ff_net_2"}
    layers = {"proj_in", "proj_out", *(f"transformer_blocks_0_{x}" for x in inner)}
    assert tensors.keys() == {
        f"lora_unet_{t}_{x}.{part}"
        for t in transformers
        for x in layers
        for part in ("lora_down.weight", "lora_up.weight", "alpha")
    }
    linear = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    convolution = "lora_unet_down_blocks_0_attentions_0_proj_in"
    assert tensors[f"{linear}.lora_down.weight"].shape == (3, 8) and tensors[f"{linear}.lora_up.weight"].shape == (8, 3)
    assert tensors[f"{convolution}.lora_down.weight"].shape == (3, 8, 1, 1)
    assert tensors[f"{convolution}.lora_up.weight"].shape == (8, 3, 1, 1)
    assert tensors[f"{linear}.alpha"].shape == () and tensors[f"{linear}.alpha"] == 3
    assert tensors[f"{linear}.lora_up.weight"].dtype == torch.float16


def test_names_of_sdxl() -> None:
    """The transformers of SDXL's own U-Net and their depths: input blocks 4, 5, 7, 8, the middle, output blocks 0-5."""
    tensors = kohya_tensors(adapter_tensors(trained("sdxl")), 3, "fp16", 2)
    depths = {
        "input_blocks_4_1": 2,
        "input_blocks_5_1": 2,
        "input_blocks_7_1": 10,
        "input_blocks_8_1": 10,
        "middle_block_1": 10,
        "output_blocks_0_1": 10,
        "output_blocks_1_1": 10,
        "output_blocks_2_1": 10,
        "output_blocks_3_1": 2,
        "output_blocks_4_1": 2,
        "output_blocks_5_1": 2,
    }
    found = {name.removesuffix("_attn2_to_out_0.alpha") for name in tensors if name.endswith("_attn2_to_out_0.alpha")}
    assert found == {f"lora_unet_{block}_transformer_blocks_{i}" for block, n in depths.items() for i in range(n)}
    assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight" in tensors
    assert "lora_unet_output_blocks_5_1_proj_in.lora_up.weight" in tensors


@pytest.mark.parametrize("layer", ["conv_in", "down_blocks.0.resnets.0.conv1", "time_embedding.linear_1"])
def test_layers_outside_of_transformers_have_no_name_in_sdxl(layer: str) -> None:
    with pytest.raises(ExportError, match=f"the layer {layer} has no name in kohya's files for SDXL"):
        sgm_name(layer, 2)


def test_numbers_that_half_precision_cannot_hold() -> None:
    tensors = {"unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.full((2, 4), 7e4)}
    assert len(kohya_tensors(tensors, 2, "fp32")) == 2
    with pytest.raises(ExportError, match="a value that fp16 cannot hold. Use --dtype fp32."):
        kohya_tensors(tensors, 2, "fp16")


def test_the_header_and_its_hash(tmp_path: Path) -> None:
    base = Base(
        id="stabilityai/stable-diffusion-2-1",
        on_hub=True,
        version="sd_v2_v",
        v_prediction=True,
        sgm=False,
        licence=OPEN,
    )
    tensors = {"b.alpha": torch.tensor(4.0), "b.lora_up.weight": torch.ones(2, 3).half()}
    content, digest = kohya_file(tensors, kohya_metadata(base, "cats", 4, 4, (768, 512)))
    (tmp_path / "x.safetensors").write_bytes(content)
    with safe_open(tmp_path / "x.safetensors", "pt") as opened:
        found = opened.metadata()
        assert {name: opened.get_tensor(name).tolist() for name in opened.keys()} == {  # noqa: SIM118
            "b.alpha": 4.0,
            "b.lora_up.weight": [[1.0] * 3] * 2,
        }
    # What follows the header: 4 bytes of the float 4.0, and six half-precision ones, 0x3c00 little endian.
    assert digest == hashlib.sha256(b"\x00\x00\x80\x40" + b"\x00\x3c" * 6).hexdigest()
    assert found == {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "4.0",
        "ss_base_model_version": "sd_v2_v",
        "ss_v2": "True",
        "ss_sd_model_name": "stabilityai/stable-diffusion-2-1",
        "ss_output_name": "cats",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v2-768-v/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "cats",
        "modelspec.resolution": "768x512",
        "modelspec.prediction_type": "v",
        "modelspec.license": "apache-2.0",
        "sshs_model_hash": digest,
        "modelspec.hash_sha256": f"0x{digest}",
    }
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert list(header["__metadata__"]) == sorted(found)


def real(cross: int) -> Any:
    """The config of a U-Net with Stable Diffusion's true widths, without its weights."""
    with torch.device("meta"):
        return UNet2DConditionModel(**{**FULL, "cross_attention_dim": cross}).config


@pytest.mark.slow
def test_families() -> None:
    assert family(real(768), False) == "sd_v1"
    assert family(real(1024), False) == "sd_v2"
    assert family(real(1024), True) == "sd_v2_v"
    assert family(real(1280), False) is None
    assert family(fresh("sd15").unet.config, False) is None
    assert family(fresh("sdxl").unet.config, False) is None
    with torch.device("meta"):
        sdxl = UNet2DConditionModel(**{**SDXL, "cross_attention_dim": 2048})
    assert family(sdxl.config, False) == "sdxl_base_v1-0"


def proof_of(change: Callable[[Path], None] | None, folder: Path, model: str = "sdxl") -> list[Any]:
    unet = trained(model)
    save_lora(unet, folder)
    file = write(unet, folder, model, "fp16")
    if change:
        change(file)
    return prove(lambda: fresh(model), folder, {folder / FILE: "fp32", file: "fp16"})


@pytest.mark.slow
def test_proof_measures(tmp_path: Path) -> None:
    exact, rounded = proof_of(None, tmp_path)
    assert (exact.file, rounded.file) == (FILE, "fp16.safetensors")
    assert exact.effect == rounded.effect > 0.1
    assert exact.error <= 1e-6 < rounded.error


@pytest.mark.slow
def test_proof_refuses_a_file_that_does_something_else(tmp_path: Path) -> None:
    def halve_alpha(file: Path) -> None:
        unet = trained("sdxl")
        write(unet, file.parent, "sdxl", "fp16", alpha=1.5)

    with pytest.raises(ExportError, match="fp16.safetensors does not do what the adapter does: noise predictions"):
        proof_of(halve_alpha, tmp_path)


def test_proof_refuses_an_adapter_without_effect(tmp_path: Path) -> None:
    unet = fresh("sd15").unet
    add_lora(unet, Lora(rank=3), seed=0)
    save_lora(unet, tmp_path)
    with pytest.raises(ExportError, match="changes nothing: noise predictions are the base model's"):
        prove(lambda: fresh("sd15"), tmp_path, {})


@pytest.mark.slow
def test_proof_at_full_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stable Diffusion 2.1's U-Net with random weights: 866 million of them, 128 projections of attention."""
    heads = (5, 10, 20, 20)
    monkeypatch.setitem(
        MODELS,
        "full",
        {**FULL, "cross_attention_dim": 1024, "attention_head_dim": heads, "use_linear_projection": True},
    )
    unet = fresh("full").unet
    add_lora(unet, Lora(rank=4), seed=0)
    for name, parameter in trainable(unet).items():
        if "lora_B" in name:
            parameter.data.normal_(0, 1e-3)
    save_lora(unet, tmp_path)
    file = write(unet, tmp_path, "full", "fp16", alpha=4)
    assert len(load_file(file)) == 16 * 2 * 4 * 3  # transformers, attentions, projections; A, B and alpha
    exact, rounded = prove(lambda: fresh("full"), tmp_path, {tmp_path / FILE: "fp32", file: "fp16"})
    assert exact.error == 0 < rounded.error < 1e-2 * exact.effect
