"""model.lora: a file that is whole and plain does what it says, layer by layer; any other one is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from dfusion_core.errors import ModelError
from dfusion_core.models.lora import METADATA
from dfusion_core.models.policy import load_policy
from dfusion_core.params.sections import Model, Sample
from dfusion_core.testing import tiny_model

QUERY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
VALUE = "mid_block.attentions.0.transformer_blocks.0.attn1.to_v"
WIDTH = 16
Tensors = dict[str, torch.Tensor]


def matrices(rank: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(rank, WIDTH, generator=random), torch.randn(WIDTH, rank, generator=random)


(A1, B1), (A2, B2) = matrices(2, 1), matrices(3, 2)
DIFFUSERS = {f"unet.{QUERY}.lora_A.weight": A1, f"unet.{QUERY}.lora_B.weight": B1}
PEFT = {name.replace("unet.", "base_model.model."): value for name, value in DIFFUSERS.items()}
SETTINGS = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["to_q"], "bias": "none"}


def kohya(layer: str, A: torch.Tensor, B: torch.Tensor, alpha: float | None) -> Tensors:
    stem = f"lora_unet_{layer.replace('.', '_')}"
    said = {} if alpha is None else {f"{stem}.alpha": torch.tensor(alpha)}
    return {f"{stem}.lora_down.weight": A, f"{stem}.lora_up.weight": B} | said


def peft(folder: Path, tensors: Tensors, settings: Any) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    text = settings if isinstance(settings, str) else json.dumps(settings)
    (folder / "adapter_config.json").write_text(text)
    return folder


def diffusers(file: Path, tensors: Tensors, **settings: Any) -> Path:
    said = {f"unet.{key}": value for key, value in settings.items()}
    save_file(tensors, file, {METADATA: json.dumps(said)} if settings else None)
    return file


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base") / "model")


@pytest.mark.parametrize(
    ("tensors", "factors"),
    [
        (kohya(QUERY, A1, B1, 6.0) | kohya(VALUE, A2, B2, 1.5), (3.0, 0.5)),
        (kohya(QUERY, A1, B1, 6.0) | kohya(VALUE, A2, B2, None), (3.0, 1.0)),
        (kohya(QUERY, A1, B1, 0.0) | kohya(VALUE, A2, B2, 3.0), (0.0, 1.0)),
        (
            DIFFUSERS | {f"unet.{VALUE}.lora_A.weight": A2, f"unet.{VALUE}.lora_B.weight": B2},
            (1.0, 1.0),
        ),
    ],
)
def test_each_layer_has_its_own_rank_and_alpha(
    model: Path, tmp_path: Path, tensors: Tensors, factors: tuple[float, float]
) -> None:
    """diffusers' reader takes one alpha for the whole file."""
    save_file(tensors, tmp_path / "lora.safetensors")
    given = Model(id=str(model), device="cpu", lora=str(tmp_path / "lora.safetensors"))
    merged = dict(load_policy(given, Sample(num_steps=4), None).unet.named_parameters())
    base = dict(UNet2DConditionModel.from_pretrained(model / "unet").named_parameters())
    for layer, added in ((QUERY, factors[0] * B1 @ A1), (VALUE, factors[1] * B2 @ A2)):
        difference = merged[f"{layer}.weight"].detach() - base[f"{layer}.weight"].detach()
        torch.testing.assert_close(difference, added, rtol=0, atol=1e-5)
    same = [name for name in base if name not in (f"{QUERY}.weight", f"{VALUE}.weight")]
    assert all(torch.equal(merged[name], base[name]) for name in same)


def without(tensors: Tensors, part: str) -> Tensors:
    return {name: value for name, value in tensors.items() if part not in name}


def with_settings(**changes: Any) -> Callable[[Path], Path]:
    left = {key: value for key, value in (SETTINGS | changes).items() if value != "absent"}
    return lambda folder: peft(folder / "lora", PEFT, left)


def with_tensors(tensors: Tensors, **settings: Any) -> Callable[[Path], Path]:
    return lambda folder: diffusers(folder / "lora.safetensors", tensors, **settings)


def with_text(text: str) -> Callable[[Path], Path]:
    return lambda folder: peft(folder / "lora", PEFT, text)


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "half a layer": (with_tensors(without(DIFFUSERS, "lora_B")), "lora_B"),
    "the other half": (with_tensors(without(DIFFUSERS, "lora_A")), "lora_B"),
    "half a layer of kohya": (with_tensors(without(kohya(QUERY, A1, B1, 1.0), "lora_up")), "lora_up"),
    "half a layer of peft": (lambda folder: peft(folder / "lora", without(PEFT, "lora_B"), SETTINGS), "lora_B"),
    "alpha of no layer": (with_tensors(DIFFUSERS | {"lora_unet_no.alpha": torch.tensor(1.0)}), "lora_unet_no.alpha"),
    "alpha is a vector": (
        with_tensors(
            kohya(QUERY, A1, B1, 1.0)
            | kohya(VALUE, A2, B2, 1.0)
            | {f"lora_unet_{VALUE.replace('.', '_')}.alpha": torch.ones(3)}
        ),
        "alpha",
    ),
    "whole numbers": (with_tensors({name: value.to(torch.int8) for name, value in DIFFUSERS.items()}), "int8"),
    "two ranks in a layer": (with_tensors(DIFFUSERS | {f"unet.{QUERY}.lora_A.weight": A2}), "(3, 16)"),
    "rank 0": (
        with_tensors({name: value[:0] if "_A" in name else value[:, :0] for name, value in DIFFUSERS.items()}),
        "(0, 16)",
    ),
    "nothing": (with_tensors({}), "no layer"),
    "weights that overflow": (with_tensors({name: value * 1e30 for name, value in DIFFUSERS.items()}), "infinite"),
    "a header of another rank": (with_tensors(DIFFUSERS, r=4, lora_alpha=4), "r 4"),
    "a header with its own alphas": (
        with_tensors(DIFFUSERS, r=2, lora_alpha=4, alpha_pattern={"to_q": 1}),
        "alpha_pattern",
    ),
    "a header of DoRA": (with_tensors(DIFFUSERS, r=2, lora_alpha=4, use_dora=True), "use_dora"),
    "a header without alpha": (with_tensors(DIFFUSERS, r=2), "lora_alpha"),
    "no alpha": (with_settings(lora_alpha="absent"), "lora_alpha"),
    "alpha is NaN": (with_settings(lora_alpha=float("nan")), "lora_alpha NaN"),
    "alpha is a truth value": (with_settings(lora_alpha=True), "lora_alpha true"),
    "another rank": (with_settings(r=4), "r 4"),
    "no rank": (with_settings(r=0), "r 0"),
    "a base changed by PiSSA": (with_settings(init_lora_weights="pissa_niter_16"), "pissa"),
    "a base changed by OLoRA": (with_settings(init_lora_weights="olora"), "olora"),
    "QALoRA": (with_settings(use_qalora=True), "use_qalora"),
    "layers that stand for several": (with_settings(layer_replication=[[0, 1]]), "layer_replication"),
    "a setting of a later peft": (with_settings(use_something=True), "use_something"),
    "another kind of adapter": (with_settings(peft_type="LOHA"), "LOHA"),
    "settings twice": (with_text('{"r": 2, "lora_alpha": 6, "lora_alpha": 2}'), "lora_alpha"),
    "settings are a list": (with_text("[]"), "adapter_config.json"),
    "settings are empty": (with_text(""), "adapter_config.json"),
    "settings without an end": (with_text("[" * 100_000), "adapter_config.json"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_plain_lora_is_refused_by_name(model: Path, tmp_path: Path, case: str) -> None:
    write, said = REFUSED[case]
    given = Model(id=str(model), device="cpu", lora=str(write(tmp_path)))
    with pytest.raises(ModelError) as caught:
        load_policy(given, Sample(num_steps=4), None)
    assert caught.value.message.startswith("model.lora: ") and said in caught.value.message
    assert caught.value.hint
