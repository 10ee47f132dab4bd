"""Configurations and weights that a run begins with, broken at random: they are read, or refused by name; no traceback.

Loaded as `init` and `sample` load them, and looked up as `dfusion plan` does.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from mutations import Mutation, as_json, by_bytes, by_nodes, by_words, from_nothing
from outcomes import INPUTS, outcome
from safetensors.torch import save_file
from test_lora_files import A1, B1, DIFFUSERS, PEFT, QUERY, SETTINGS, kohya, peft

from dfusion_core.commands.plan.lookup import find_architecture
from dfusion_core.diffusion import ddim, flow
from dfusion_core.errors import ModelError
from dfusion_core.models.loading import load_pipeline
from dfusion_core.models.policy import load_policy
from dfusion_core.models.size import own_side
from dfusion_core.params.sections import Model, Sample
from dfusion_core.testing import TOKENS, tiny_flux, tiny_model, tiny_sd3, tiny_sdxl
from dfusion_core.tiny_parts import words

FLOW = {"num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": True}
DDIM = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


@pytest.mark.parametrize(
    "changes",
    [
        {"shift": None},
        {"shift": 0},
        {"shift": float("nan")},
        {"num_train_timesteps": "x"},
        {"num_train_timesteps": True},
        {"base_shift": None},
        {"max_shift": 1e9},
        {"base_image_seq_len": [1]},
        {"base_image_seq_len": 4096, "max_image_seq_len": 4096},
        {"max_image_seq_len": 16},
        {"time_shift_type": "linear", "base_shift": -3.0},
    ],
    ids=str,
)
def test_a_schedule_of_a_flow_that_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"scheduler_config\.json") as caught:
        flow.schedule(FLOW | changes, 4, 1.0, 64)
    assert any(key in str(caught.value) for key in changes) or "shifts the levels" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"), [("beta_start", 0.0), ("beta_end", float("nan")), ("beta_start", float("nan"))]
)
def test_a_schedule_of_ddim_without_a_density(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        ddim.schedule(DDIM | {key: value}, 4, 1.0)


@pytest.mark.parametrize("side", [None, "x", [8, 12], 0, True, 10**6])
@pytest.mark.parametrize("file", ["transformer", "vae"])
def test_a_side_that_is_none(file: str, side: Any) -> None:
    """FLUX's own size is that of its autoencoder."""
    configs: dict[str, dict[str, Any]] = {"transformer": {"patch_size": 2}, "vae": {"block_out_channels": [8, 8]}}
    if file == "vae":
        configs["transformer"]["guidance_embeds"] = True
    configs[file]["sample_size"] = side
    with pytest.raises(ModelError, match=f"{file} has sample_size") as caught:
        own_side(configs["transformer"], configs["vae"])
    assert f"{file}/config.json" in caught.value.hint


def encoder(width: int, **more: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    sizes = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPTextConfig(vocab_size=words(), max_position_embeddings=TOKENS, **sizes, **more)
    return (CLIPTextModelWithProjection if more else CLIPTextModel)(config)


@pytest.mark.parametrize(
    ("write", "part", "other", "said"),
    [
        (tiny_model, "text_encoder", lambda: encoder(32), "text of width 16, and gets 32"),
        (tiny_sdxl, "text_encoder_2", lambda: encoder(16, projection_dim=8), "a pooled prompt of width 16, and gets 8"),
        (tiny_sd3, "text_encoder_2", lambda: encoder(32, projection_dim=16), "at most 40, and gets 48"),
        (tiny_flux, "text_encoder", lambda: encoder(32), "a pooled prompt of width 16, and gets 32"),
        (tiny_model, "vae", lambda: vae_of(8), "latents, of so many channels 4, and gets 8"),
    ],
)
def test_a_part_of_another_model(
    tmp_path: Path, write: Callable[..., Path], part: str, other: Callable[[], Any], said: str
) -> None:
    """Whole in itself, but not what the network takes: named where the model is loaded, and not in the first step."""
    model = write(tmp_path / "model")
    shutil.rmtree(model / part)
    other().save_pretrained(model / part)
    with pytest.raises(ModelError, match=said):
        load_pipeline(Model(id=str(model), device="cpu"))


def vae_of(channels: int) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(block_out_channels=(8,), latent_channels=channels, norm_num_groups=4)


class Target(NamedTuple):
    """A file below a folder with a model, what writes that, what has to be named, and how it is broken."""

    write: Callable[[Path], Any]
    file: str
    names: str
    ways: tuple[Mutation, ...]
    extra: dict[str, str] = {}


def with_lora(tensors: Any, settings: Any = None) -> Callable[[Path], Any]:
    def write(folder: Path) -> None:
        tiny_model(folder / "model")
        if settings is None:
            save_file(tensors, folder / "lora.safetensors")
        else:
            peft(folder / "lora", tensors, settings)

    return write


def with_vae(folder: Path) -> None:
    tiny_model(folder / "model")
    shutil.copytree(tiny_model(folder / "other", seed=1) / "vae", folder / "vae")


def of(build: Callable[[Path], Path]) -> Callable[[Path], Any]:
    return lambda folder: build(folder / "model")


CONFIG = (by_words, by_nodes(as_json), by_nodes(as_json), by_nodes(as_json), from_nothing)
WEIGHTS = (by_bytes, by_bytes, from_nothing)
MODEL = r"^(plan: )?(model\.\w+|sample\.\w+|plan|fuse\.layers)"
TARGETS = {
    "lora": Target(with_lora(DIFFUSERS), "lora.safetensors", r"^model\.lora", WEIGHTS, {"lora": "lora.safetensors"}),
    "kohya": Target(
        with_lora(kohya(QUERY, A1, B1, 2.0)), "lora.safetensors", r"^model\.lora", WEIGHTS, {"lora": "lora.safetensors"}
    ),
    "peft": Target(
        with_lora(PEFT, SETTINGS), "lora/adapter_config.json", r"^model\.lora: .*lora/", CONFIG, {"lora": "lora"}
    ),
    "vae config": Target(with_vae, "vae/config.json", r"^model\.vae", CONFIG, {"vae": "vae"}),
    "vae": Target(with_vae, "vae/diffusion_pytorch_model.safetensors", r"^model\.vae", WEIGHTS, {"vae": "vae"}),
    "sd3": Target(of(tiny_sd3), "model/transformer/config.json", MODEL, CONFIG),
    "sd3 scheduler": Target(of(tiny_sd3), "model/scheduler/scheduler_config.json", MODEL, CONFIG),
    "flux": Target(of(tiny_flux), "model/transformer/config.json", MODEL, CONFIG),
    "flux scheduler": Target(of(tiny_flux), "model/scheduler/scheduler_config.json", MODEL, CONFIG),
    "flux vae": Target(of(tiny_flux), "model/vae/config.json", MODEL, CONFIG),
    "flux t5": Target(of(tiny_flux), "model/text_encoder_2/config.json", MODEL, CONFIG),
    "flux index": Target(of(tiny_flux), "model/model_index.json", MODEL, CONFIG),
    "sd scheduler": Target(of(tiny_model), "model/scheduler/scheduler_config.json", MODEL, CONFIG),
}
SOME = max(1, INPUTS // 5)  # a model is loaded for each


@pytest.mark.few(3)
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")  # the libraries' remarks on what they were given
def test_broken_files_of_a_model(workspace: Path, name: str) -> None:
    target = TARGETS[name]
    target.write(workspace)
    given = Model(id="model", device="cpu", **target.extra)
    file = Path(target.file)
    valid = file.read_bytes()

    def read() -> None:
        find_architecture(given)
        load_pipeline(given)
        policy = load_policy(given, Sample(num_steps=3), None)
        text = policy.embed(["a heart"])
        policy.predict_noise(torch.zeros(1, *policy.latent_shape), 0, text)
        assert bool(policy.schedule.std.isfinite().all()) and min(policy.latent_shape) > 0

    assert outcome(read, target.names) == "read"
    wrong = []
    for number in range(SOME):
        rng = random.Random(f"{name} {number}")
        broken = rng.choice(target.ways)(rng, valid)
        file.write_bytes(broken)
        found = outcome(read, target.names)
        if found not in ("read", "refused"):
            wrong.append(f"{number}: {found}\n    {broken[:400]!r}")
    assert not wrong, f"{len(wrong)} of {SOME}:\n" + "\n".join(wrong[:10])
