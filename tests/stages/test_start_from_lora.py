"""model.lora: a LoRA that the base model has already; and the whole model that an export can write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from steps import change, policy_of, run
from typer.testing import CliRunner

from dfusion_core.commands.cli import app
from dfusion_core.commands.export.kohya import kohya_tensors
from dfusion_core.errors import ModelError
from dfusion_core.models.lora import adapter_tensors, save_lora, trainable
from dfusion_core.models.policy import Policy, load_policy
from dfusion_core.params.sections import Model, Sample
from dfusion_core.store.paths import ROUND_STAGES
from dfusion_core.testing import tiny_model, tiny_sdxl

CONFIG = {"r": 2, "lora_alpha": 6, "target_modules": ["to_q", "to_v"]}  # the factor is 3


def filled(unet: Any) -> Any:
    """With an effect, as after training; the same numbers each time."""
    random = torch.Generator().manual_seed(1)
    for _, parameter in sorted(unet.named_parameters()):
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.2, generator=random)
    return unet


def adapted(model: Path) -> Any:
    """The model's U-Net with the LoRA beside its weights."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet").eval().requires_grad_(False)
    unet.add_adapter(LoraConfig(**CONFIG))
    return filled(unet)


def written(model: Path, folder: Path, kind: str) -> Path:
    """The LoRA in a file of each kind; returns what model.lora names."""
    unet = adapted(model)
    if kind == "diffusers":
        return save_lora(unet, folder)
    if kind == "kohya":
        sgm = unet.config.layers_per_block if unet.config.addition_embed_type else None
        folder.mkdir()
        save_file(kohya_tensors(adapter_tensors(unet), CONFIG["lora_alpha"], "fp32", sgm), folder / "any.safetensors")
        return folder / "any.safetensors"
    plain = UNet2DConditionModel.from_pretrained(model / "unet").requires_grad_(False)
    wrapped = get_peft_model(plain, LoraConfig(**CONFIG))
    values = {name.replace(".default", ""): value for name, value in trainable(unet).items()}
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(values[name.removeprefix("base_model.model.").replace(".default", "")])
    wrapped.save_pretrained(folder)
    return folder


def noise(policy: Policy) -> torch.Tensor:
    x = torch.randn(1, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return policy.predict_noise(x, 1, policy.embed(["a heart"]))


def loaded(model: Path, lora: Path | None, dtype: str = "fp32") -> Policy:
    given = Model(id=str(model), device="cpu", dtype=dtype, lora=str(lora) if lora else None)
    return load_policy(given, Sample(num_steps=4), None)


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", ["diffusers", "kohya", "peft"])
@pytest.mark.parametrize("write", [tiny_model, tiny_sdxl])
def test_every_kind_of_file(tmp_path: Path, write: Any, kind: str) -> None:
    """The noise is that of the LoRA beside the weights, with its alpha; nothing of it is left to be trained."""
    model = write(tmp_path / "model")
    policy = loaded(model, written(model, tmp_path / "lora", kind))
    found, base = noise(policy), noise(loaded(model, None))
    policy.unet = adapted(model).to(memory_format=torch.channels_last)
    assert (found - base).abs().max() > 0.1
    torch.testing.assert_close(found, noise(policy), rtol=0, atol=1e-4)


def test_sixteen_bits_are_rounded_once(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    lora = written(model, tmp_path / "lora", "diffusers")
    exact, rounded = loaded(model, lora), loaded(model, lora, "bf16")
    assert rounded.unet.dtype == rounded.vae.dtype == torch.bfloat16
    theirs = dict(rounded.unet.named_parameters())
    for name, weight in exact.unet.named_parameters():
        assert torch.equal(weight.to(torch.bfloat16), theirs[name]), name


def test_one_that_does_not_fit(tmp_path: Path) -> None:
    model, other = tiny_model(tmp_path / "model"), tiny_sdxl(tmp_path / "other")
    foreign = written(other, tmp_path / "foreign", "diffusers")
    good = written(model, tmp_path / "good", "diffusers")
    tensors = load_file(good)
    first = next(iter(tensors))
    save_file(tensors | {"unet.x.dora_scale": torch.ones(2)}, tmp_path / "dora.safetensors")
    save_file(tensors | {first: tensors[first] * float("nan")}, tmp_path / "nan.safetensors")
    alone = written(model, tmp_path / "peft", "peft")
    (alone / "adapter_config.json").unlink()
    for bad, said in (
        (foreign, "fit"),
        (tmp_path / "dora.safetensors", "dora_scale"),
        (tmp_path / "nan.safetensors", first),
        (alone, "adapter_config.json"),
        (tmp_path / "none.safetensors", "none.safetensors"),
    ):
        with pytest.raises(ModelError) as caught:
            loaded(model, bad)
        assert "model.lora" in str(caught.value) and said in str(caught.value)


@pytest.mark.slow
def test_a_run_and_its_whole_model(project: Path) -> None:
    """The base with the LoRA is the reference; its file is pinned; the card names it; the whole model is the policy."""
    shutil.copy(written(project / "model", project / "lora", "kohya"), "style.safetensors")
    change(model={"lora": "style.safetensors"}, rounds={"r00": {"prev": "init"}})
    for round, stage in [("init", "train"), ("init", "evaluate"), *(("r00", stage) for stage in (*ROUND_STAGES, "kv"))]:
        shutil.rmtree(Path("runs", round, stage), ignore_errors=True)
    run("init")
    run("evaluate", "init")
    for stage in ROUND_STAGES:
        run(stage)
    assert "model.lora/weights.safetensors" in json.loads(Path("runs/init/train/pin.json").read_text())["files"]
    done = CliRunner().invoke(app, ["export", "r00", "--out", "out", "--merged"])
    assert done.exit_code == 0, done.output
    assert "merged (fp32)" in done.output
    card = Path("out/README.md").read_text()
    assert "style.safetensors" in card and "merged/" in card and str(project) not in card
    assert CliRunner().invoke(app, ["export", "r00", "--out", "out", "--merged"]).exit_code == 1
    policy = policy_of("r00", train=True)
    ours = noise(policy)
    assert (ours - noise(policy_of("init"))).abs().max() > 1e-4
    pipeline = StableDiffusionPipeline.from_pretrained("out/merged", safety_checker=None, use_safetensors=True)
    policy.unet = pipeline.unet.to(memory_format=torch.channels_last)
    torch.testing.assert_close(noise(policy), ours, rtol=0, atol=1e-4)
    save_file({name: 2 * value for name, value in load_file("style.safetensors").items()}, "style.safetensors")
    with pytest.raises(ModelError) as caught:
        policy_of("r00")
    assert "model.lora/weights.safetensors" in str(caught.value)
