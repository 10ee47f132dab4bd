"""The adapter: zero at first, the same effect merged, separate, and through diffusers' own loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dfusion_core.errors import ModelError, ParamsError
from dfusion_core.microworld.locate import WEIGHTS
from dfusion_core.models.lora import FILE, add_lora, load_lora, save_lora, trainable
from dfusion_core.params import Lora

X, TIMESTEP = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([401, 1])
TEXT = torch.randn(2, 16, 96, generator=torch.Generator().manual_seed(1))


def fresh() -> UNet2DConditionModel:
    unet = UNet2DConditionModel.from_pretrained(WEIGHTS / "unet")
    return unet.eval().requires_grad_(False)


def predict(unet: UNet2DConditionModel) -> torch.Tensor:
    with torch.no_grad():
        return unet(X, TIMESTEP, TEXT).sample


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """An adapter with an effect, and the prediction with it."""
    unet = fresh()
    add_lora(unet, Lora(), seed=3)
    disturb(unet)
    save_lora(unet, tmp_path)
    return tmp_path, predict(unet)


def disturb(unet: UNet2DConditionModel) -> None:
    """Give the adapter an effect, as training would."""
    generator = torch.Generator().manual_seed(4)
    for name, parameter in trainable(unet).items():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05, generator=generator)


def test_a_new_adapter_changes_nothing_and_depends_on_its_seed() -> None:
    unet, other = fresh(), fresh()
    before = predict(unet)
    add_lora(unet, Lora(), seed=3)
    add_lora(other, Lora(), seed=3)
    assert torch.equal(predict(unet), before)
    assert all(torch.equal(a, b) for a, b in zip(trainable(unet).values(), trainable(other).values(), strict=True))


def test_only_the_adapter_trains() -> None:
    unet = fresh()
    add_lora(unet, Lora(rank=2), seed=0)
    assert trainable(unet) and all("lora_" in name for name in trainable(unet))


def test_separate_adapter_is_exact_and_merged_within_rounding(saved: tuple[Path, torch.Tensor]) -> None:
    folder, expected = saved
    separate, merged = fresh(), fresh()
    load_lora(separate, folder, train=True)
    load_lora(merged, folder, train=False)
    assert trainable(separate) and not trainable(merged)
    assert (expected - predict(fresh())).abs().max() > 1e-2  # the adapter does something
    torch.testing.assert_close(predict(separate), expected, rtol=0, atol=0)
    torch.testing.assert_close(predict(merged), expected, rtol=1e-4, atol=1e-4)


def test_diffusers_loads_the_file_with_the_same_effect(saved: tuple[Path, torch.Tensor]) -> None:
    folder, expected = saved
    pipeline = StableDiffusionPipeline.from_pretrained(WEIGHTS)
    pipeline.load_lora_weights(folder)
    torch.testing.assert_close(predict(pipeline.unet), expected, rtol=1e-5, atol=1e-5)


def test_every_kind_of_layer_is_read_back(tmp_path: Path) -> None:
    """Projections and feed-forward layers beside attention: none of them may get lost on the way."""
    unet = fresh()
    add_lora(unet, Lora(targets=("attn2.to_v", "to_out.0", "proj_in", "ff.net.2", "conv1")), seed=3)
    disturb(unet)
    save_lora(unet, tmp_path)
    again, pipeline = fresh(), StableDiffusionPipeline.from_pretrained(WEIGHTS)
    load_lora(again, tmp_path, train=True)
    pipeline.load_lora_weights(tmp_path)
    for loaded in (again, pipeline.unet):
        torch.testing.assert_close(predict(loaded), predict(unet), rtol=0, atol=0)


def test_alpha_survives(tmp_path: Path) -> None:
    """An adapter of rank 2 and alpha 6 has three times the effect on a layer's output, and keeps it."""
    unet, again, pipeline = fresh(), fresh(), StableDiffusionPipeline.from_pretrained(WEIGHTS)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=6, target_modules=["attn2.to_v"]))
    disturb(unet)
    layer = unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v
    states = TEXT[0]
    expected = states @ (layer.weight + 6 / 2 * layer.lora_B.default.weight @ layer.lora_A.default.weight).T
    torch.testing.assert_close(layer(states), expected)
    save_lora(unet, tmp_path)
    load_lora(again, tmp_path, train=True)
    pipeline.load_lora_weights(tmp_path)
    assert (predict(unet) - predict(fresh())).abs().max() > 1e-2
    for loaded in (again, pipeline.unet):
        torch.testing.assert_close(predict(loaded), predict(unet), rtol=0, atol=0)
    save_lora(again, tmp_path / "again")
    assert (tmp_path / "again" / FILE).read_bytes() == (tmp_path / FILE).read_bytes()


def test_the_header_says_what_peft_needs(saved: tuple[Path, torch.Tensor]) -> None:
    with safe_open(saved[0] / FILE, "pt") as opened:
        settings = json.loads(opened.metadata()["lora_adapter_metadata"])
    assert settings == {"unet.r": 4, "unet.lora_alpha": 4, "unet.target_modules": ["to_k", "to_out.0", "to_q", "to_v"]}
    config = LoraConfig(**{key.removeprefix("unet."): value for key, value in settings.items()})
    assert config.target_modules == {"to_q", "to_k", "to_v", "to_out.0"}


def test_equal_adapters_have_equal_bytes(saved: tuple[Path, torch.Tensor]) -> None:
    """The library itself would write the header's entries in another order each time."""
    unet = fresh()
    load_lora(unet, saved[0], train=True)
    assert len({save_lora(unet, saved[0] / str(i)).read_bytes() for i in range(8)}) == 1


def test_reads_what_the_training_scripts_of_diffusers_write(saved: tuple[Path, torch.Tensor]) -> None:
    folder, expected = saved
    old = {
        name.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): value
        for name, value in load_file(folder / FILE).items()
    }
    save_file(old, folder / FILE)
    unet = fresh()
    load_lora(unet, folder, train=True)
    torch.testing.assert_close(predict(unet), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("target", "why", "hint"),
    [
        ("attn2.to_w", "names no layer of this U-Net; it has ", "Did you mean 'attn2.to_v'?"),
        ("o_q", "names no layer of this U-Net; it has ", "Did you mean 'to_q'?"),
        ("attn1", "names layers of this U-Net that no LoRA can be added to; it has ", "Did you mean 'attn1.to_"),
        ("nonsense", "names no layer of this U-Net; it has ", "Correct lora.targets in params.yaml."),
    ],
)
def test_a_target_that_is_none(target: str, why: str, hint: str) -> None:
    """Also where another target names something, which peft would be content with."""
    unet = fresh()
    with pytest.raises(ParamsError) as caught:
        add_lora(unet, Lora(targets=("to_q", target)), seed=0)
    assert caught.value.message.startswith(f"lora.targets: '{target}' {why}attn1.to_k, attn1.to_out.0, attn1.to_q, ")
    assert "proj_in" in caught.value.message and ".0.attentions" not in caught.value.message
    assert caught.value.hint.startswith(hint)
    assert not any("lora_" in name for name, _ in unet.named_parameters())


@pytest.mark.parametrize("content", [None, b"", b"\x80\x04\x95pickled"])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ModelError, match=r"adapter: .*pytorch_lora_weights.safetensors cannot be read: .*verify runs"):
        load_lora(fresh(), tmp_path, train=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda name, value: (name, value[:, :7].contiguous()),  # other widths
        lambda name, value: (name.replace("attentions.0", "attentions.9"), value),  # some layers unknown
        lambda name, value: (name.replace("transformer_blocks", "blocks"), value),  # all of them
    ],
)
def test_an_adapter_of_another_model(saved: tuple[Path, torch.Tensor], change: Any) -> None:
    folder = saved[0]
    save_file(dict(change(*item) for item in load_file(folder / FILE).items()), folder / FILE)
    with pytest.raises(ModelError, match="does not fit this model: .* Set model.id to the model"):
        load_lora(fresh(), folder, train=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_trained_is_fp32(saved: tuple[Path, torch.Tensor], dtype: torch.dtype) -> None:
    """Bit for bit the file's values on a U-Net in 16 bits; gradients of any size make a finite step of AdamW's size."""
    folder, _ = saved
    unet = fresh().to(dtype)
    load_lora(unet, folder, train=True)
    in_file = load_file(folder / FILE)
    for name, parameter in trainable(unet).items():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, in_file[f"unet.{name.replace('.default', '')}"])
    assert unet.conv_in.weight.dtype == dtype
    rate, weight = 1e-4, next(iter(trainable(unet).values()))
    optimizer, before = torch.optim.AdamW([weight], lr=rate, weight_decay=0.0), weight.detach().clone()
    weight.grad = torch.full_like(weight, 1e-5)
    optimizer.step()
    torch.testing.assert_close(before - weight, torch.full_like(weight, rate), rtol=2e-2, atol=0)


def deltas(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """B A of every layer with an adapter, in fp64."""
    found = {name.replace(".default", ""): value.double() for name, value in unet.state_dict().items()}
    return {
        name.removesuffix(".lora_A.weight"): found[name.replace("lora_A", "lora_B")] @ value
        for name, value in found.items()
        if name.endswith("lora_A.weight")
    }


def test_sixteen_bits_sample_with_the_adapter_that_trains(tmp_path: Path) -> None:
    """It stays beside the weights, in fp32 as in training: their sum in bf16 would lose much of a small adapter.

    B of 5e-4 is what five AdamW updates at 1e-4 give; the error of merging falls with its size (8 % at 3e-3).
    """
    unet = fresh()
    add_lora(unet, Lora(), seed=3)
    generator = torch.Generator().manual_seed(4)
    for name, parameter in trainable(unet).items():
        if "lora_B" in name:
            parameter.data.normal_(0, 5e-4, generator=generator)
    wanted = deltas(unet)
    save_lora(unet, tmp_path)
    bare, merged = fresh().bfloat16(), fresh().bfloat16()
    merged.load_lora_adapter(load_file(tmp_path / FILE), prefix="unet")
    merged.fuse_lora()
    merged.unload_lora()
    lost = [
        float(
            (merged.get_submodule(name).weight.double() - bare.get_submodule(name).weight.double() - delta).norm()
            / delta.norm()
        )
        for name, delta in wanted.items()
    ]
    assert sum(lost) / len(lost) > 0.1  # what merging would do
    sampled, trained = fresh().bfloat16(), fresh().bfloat16()
    load_lora(sampled, tmp_path, train=False)
    load_lora(trained, tmp_path, train=True)
    assert not trainable(sampled)
    kept = deltas(sampled)
    assert max(float((kept[name] - delta).norm() / delta.norm()) for name, delta in wanted.items()) < 1e-6
    with torch.no_grad():
        one, other = (net(X.bfloat16(), TIMESTEP, TEXT.bfloat16()).sample for net in (sampled, trained))
    assert torch.equal(one, other)
    print(f"merged in bf16: relative error of the delta {sum(lost) / len(lost):.3f}, worst {max(lost):.3f}")
