"""model.lora with weights for the text encoders, with its own alpha, and files that are no plain LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from dfusion_core.errors import ModelError
from dfusion_core.models.policy import Policy, load_policy
from dfusion_core.params.sections import Model, Sample
from dfusion_core.testing import tiny_model, tiny_sdxl

RANK, ALPHA = 2, 6  # the factor is 3
LAYERS = {"unet": ["to_q", "to_v"], "text_encoder": ["q_proj", "fc1"], "text_encoder_2": ["q_proj", "fc1"]}
CLASSES = {
    "unet": UNet2DConditionModel,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}
KOHYA = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}
Weights = dict[str, torch.Tensor]


def adapters(model: Path) -> dict[str, Weights]:
    """A LoRA for each part of a model, in peft's names, as after training."""
    found: dict[str, Weights] = {}
    for part, targets in LAYERS.items():
        if (model / part).is_dir():
            network: Any = CLASSES[part].from_pretrained(model / part)
            inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets), network)
            random = torch.Generator().manual_seed(1)
            state = get_peft_model_state_dict(network, adapter_name="default")
            found[part] = {name: torch.randn(v.shape, generator=random) * 0.2 for name, v in sorted(state.items())}
    return found


def written(model: Path, folder: Path, kind: str) -> Path:
    """The whole LoRA in one file, of diffusers or in the names of kohya's tools."""
    parts = adapters(model)
    if kind == "kohya":
        return kohya_file(parts, folder)
    two = "text_encoder_2" in parts
    settings = {part: {"r": RANK, "lora_alpha": ALPHA, "target_modules": LAYERS[part]} for part in parts}
    writer = StableDiffusionXLPipeline if two else StableDiffusionPipeline
    writer.save_lora_weights(
        folder,
        **{f"{part}_lora_layers": weights for part, weights in parts.items()},
        **{f"{part}_lora_adapter_metadata": one for part, one in settings.items()},
    )
    return folder / "pytorch_lora_weights.safetensors"


def kohya_file(parts: dict[str, Weights], folder: Path) -> Path:
    found: Weights = {}
    two = "text_encoder_2" in parts
    for part, weights in parts.items():
        prefix = "lora_te1" if two and part == "text_encoder" else KOHYA[part]
        for name, value in weights.items():
            layer, _, which = name.removesuffix(".weight").rpartition(".")
            outer = "text_model_" if part != "unet" else ""
            flat = f"{prefix}_{outer}{layer.removeprefix('text_model.').replace('.', '_')}"
            found[f"{flat}.{'lora_down' if which == 'lora_A' else 'lora_up'}.weight"] = value
            found[f"{flat}.alpha"] = torch.tensor(float(ALPHA))
    folder.mkdir()
    save_file(found, folder / "any.safetensors")
    return folder / "any.safetensors"


def loaded(model: Path, lora: Path | None) -> Policy:
    given = Model(id=str(model), device="cpu", dtype="fp32", lora=str(lora) if lora else None)
    return load_policy(given, Sample(num_steps=4), None)


def off(model: Path, policy: Policy, factor: float = ALPHA / RANK) -> float:
    """How far the weights of the parts are from the base's and the LoRA's product times the factor."""
    base, worst = loaded(model, None), 0.0
    networks = [(one.unet, *(encoder for _, encoder in one.encode.parts)) for one in (base, policy)]
    for (_, weights), plain, merged in zip(adapters(model).items(), *networks, strict=True):
        before, after = dict(plain.named_parameters()), dict(merged.named_parameters())
        for name, A in weights.items():
            if ".lora_A." in name:
                layer = name.replace(".lora_A.", ".")
                change = factor * weights[name.replace("lora_A", "lora_B")] @ A
                assert change.abs().max() > 0.01
                worst = max(worst, float((after[layer] - before[layer] - change).abs().max()))
    return worst


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", ["diffusers", "kohya"])
@pytest.mark.parametrize("write", [tiny_model, tiny_sdxl])
def test_text_encoders_too(tmp_path: Path, write: Any, kind: str) -> None:
    """The U-Net and every text encoder get the whole LoRA, with its alpha."""
    model = write(tmp_path / "model")
    assert off(model, loaded(model, written(model, tmp_path / "lora", kind))) < 1e-5


def test_alpha_beside_diffusers_names(tmp_path: Path) -> None:
    """A scalar ``alpha`` of each layer counts wherever it stands, or the file is refused: it is never passed over."""
    model = tiny_model(tmp_path / "model")
    found: Weights = {}
    for part, weights in adapters(model).items():
        for name, value in weights.items():
            found[f"{part}.{name}"] = value
            found[f"{part}.{name.rpartition('.lora_')[0]}.alpha"] = torch.tensor(float(ALPHA))
    save_file(found, tmp_path / "alpha.safetensors")
    assert off(model, loaded(model, tmp_path / "alpha.safetensors")) < 1e-5


def foreign(kind: str, layer: str) -> Weights:
    """What other tools add to, or write in the place of, a layer's two matrices."""
    small = torch.ones(2, 2)
    return {
        "LoHa": {f"{layer}.hada_{name}": small.clone() for name in ("w1_a", "w1_b", "w2_a", "w2_b")},
        "LoKr": {f"{layer}.lokr_w1": small, f"{layer}.lokr_w2": small.clone()},
        "DoRA": {f"{layer}.dora_scale": small},
        "OFT": {f"{layer}.oft_blocks": small},
        "Tucker": {f"{layer}.lora_mid.weight": small},
        "difference": {f"{layer}.diff": small},
    }[kind]


@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "DoRA", "OFT", "Tucker", "difference"])
def test_other_kinds_are_named(tmp_path: Path, kind: str) -> None:
    """With the rest of a good file beside it, so that half of it could be read."""
    model = tiny_model(tmp_path / "model")
    tensors = load_file(written(model, tmp_path / "lora", "kohya"))
    strange = foreign(kind, "lora_te_text_model_encoder_layers_0_self_attn_k_proj")
    save_file(tensors | strange, tmp_path / "strange.safetensors")
    with pytest.raises(ModelError) as caught:
        loaded(model, tmp_path / "strange.safetensors")
    said = str(caught.value)
    assert kind in said and next(iter(sorted(strange))) in said
    assert "model.lora" in said and "strange.safetensors" in said and "to null" in said


@pytest.mark.parametrize("kind", ["diffusers", "kohya"])
@pytest.mark.parametrize("which", ["up", "down"])
def test_half_of_a_layer_is_refused(tmp_path: Path, kind: str, which: str) -> None:
    model = tiny_model(tmp_path / "model")
    tensors = load_file(written(model, tmp_path / "lora", kind))
    names = {"up": ("lora_up", "lora_B"), "down": ("lora_down", "lora_A")}[which]
    lost = next(name for name in sorted(tensors) if any(one in name for one in names))
    del tensors[lost]
    save_file(tensors, tmp_path / "half.safetensors")
    with pytest.raises(ModelError) as caught:
        loaded(model, tmp_path / "half.safetensors")
    said, layer = str(caught.value), lost.partition(".lora_")[0]
    assert layer in said and "half.safetensors" in said and "to null" in said
