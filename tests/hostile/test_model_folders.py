"""Models and rewards that are not whole, or whose configurations would run code: refused by name.

Checked with the installed versions of diffusers, transformers and open_clip.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dfusion_core.errors import ModelError, RewardError
from dfusion_core.models.loading import load_pipeline
from dfusion_core.models.policy import load_policy
from dfusion_core.models.single_file import read_markers
from dfusion_core.params.sections import Model, Reward, Sample
from dfusion_core.rewards.plugins import load_plugin
from dfusion_core.rewards.scoring import load_reward
from dfusion_core.store.atomic import write_text
from dfusion_core.testing import tiny_clip, tiny_model

CPU = torch.device("cpu")
UNET, TEXT = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
EVIL = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nclass Evil: pass\n"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    tiny_model(folder / "model")
    tiny_clip(folder / "clip")
    return folder


@pytest.fixture
def world(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    for folder in ("model", "clip"):
        Path(folder, "evil.py").write_text(EVIL)
    return tmp_path


def edit(file: str, **changes: Any) -> Callable[[], None]:
    def change() -> None:
        Path(file).write_text(json.dumps(json.loads(Path(file).read_text()) | changes))

    return change


def drop(file: str, part: str) -> Callable[[], None]:
    def change() -> None:
        tensors = load_file(file)
        del tensors[next(name for name in sorted(tensors) if part in name)]
        save_file(tensors, file, {"format": "pt"})

    return change


def add(file: str, name: str) -> Callable[[], None]:
    return lambda: save_file(load_file(file) | {name: torch.zeros(2, 2)}, file, {"format": "pt"})


MODELS: dict[str, tuple[Callable[[], None], list[str]]] = {
    "no vocabulary": (lambda: Path("model/tokenizer/tokenizer.json").unlink(), ["tokenizer/tokenizer.json"]),
    "a matrix of the text encoder": (drop(f"model/{TEXT}", "q_proj.weight"), ["text_encoder", "q_proj.weight"]),
    "a key of the U-Net": (drop(f"model/{UNET}", "to_q.weight"), ["to_q.weight"]),
    "a key of the autoencoder": (drop(f"model/{VAE}", "conv_out.bias"), ["conv_out.bias"]),
    "unknown to the U-Net": (add(f"model/{UNET}", "other.weight"), ["unet", "other.weight"]),
    "unknown to the text encoder": (add(f"model/{TEXT}", "other.weight"), ["text_encoder", "other.weight"]),
    "a LoRA inside": (add(f"model/{UNET}", "mid_block.attentions.0.to_q.lora_A.default.weight"), ["LoRA", "fuse_lora"]),
    "two sides": (edit("model/unet/config.json", sample_size=[8, 12]), ["sample_size", "[8, 12]"]),
    "no side": (edit("model/unet/config.json", sample_size=None), ["sample_size", "None"]),
    "a class of the folder": (edit("model/model_index.json", unet=["model.evil", "Evil"]), ["unet", "model.evil"]),
    "a part of its own": (edit("model/model_index.json", more=["evil", "Evil"]), ["more", "evil"]),
    "a pipeline of its own": (edit("model/model_index.json", _class_name=["evil", "Evil"]), ["evil"]),
    "a scheduler of its own": (edit("model/model_index.json", scheduler=["os", "system"]), ["scheduler", "os"]),
    "a number for a library to make room for": (
        edit("model/scheduler/scheduler_config.json", num_train_timesteps=10**9),
        ["scheduler_config.json", "num_train_timesteps"],
    ),
    "NaN in a configuration": (edit("model/unet/config.json", norm_eps=float("nan")), ["unet/config.json", "norm_eps"]),
    "a key twice": (
        lambda: write_text(
            Path("model/vae/config.json"),
            Path("model/vae/config.json").read_text().rstrip()[:-1] + ', "scaling_factor": 1}',
        ),
        ["vae/config.json", "scaling_factor"],
    ),
    "auto_map": (edit("model/text_encoder/config.json", auto_map={"AutoModel": "evil.Evil"}), ["auto_map"]),
    "auto_map of the tokenizer": (
        edit("model/tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}),
        ["auto_map", "tokenizer"],
    ),
    "kernels of the Hub": (
        edit("model/text_encoder/config.json", _attn_implementation="some/kernel"),
        ["_attn_implementation", "some/kernel"],
    ),
    "an adapter beside": (
        lambda: write_text(Path("model/text_encoder/adapter_config.json"), "{}"),
        ["LoRA", "adapter"],
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_is_not_whole_or_hostile(world: Path, case: str) -> None:
    change, said = MODELS[case]
    change()
    with pytest.raises(ModelError) as caught:
        load_pipeline(Model(id="model", device="cpu"))
    message = f"{caught.value.message} {caught.value.hint}"
    assert all(one in message for one in ["model", *said]), message
    assert not list(world.rglob("ran"))


def test_a_tokenizer_without_a_limit_gets_the_encoder_s(world: Path) -> None:
    edit("model/tokenizer/tokenizer_config.json", model_max_length=int(1e30))()
    policy = load_policy(Model(id="model", device="cpu"), Sample(num_steps=4), None)
    assert policy.embed(["a heart"]).states.shape[1] == 16


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(world: Path) -> None:
    with pytest.raises(ModelError, match="model.device: 'cuda:0'"):
        load_pipeline(Model(id="model", device="cuda:0"))


def clip(**text: Any) -> Callable[[], None]:
    def change() -> None:
        file = Path("clip/open_clip_config.json")
        config = json.loads(file.read_text())
        config["model_cfg"]["text_cfg"] |= text
        file.write_text(json.dumps(config))

    return change


def trusting() -> None:
    clip(tokenizer_kwargs={"trust_remote_code": True})()
    edit("clip/tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})()


REWARDS: dict[str, tuple[Callable[[], None], list[str]]] = {
    "no weights": (lambda: Path("clip/open_clip_model.safetensors").unlink(), ["open_clip_model.safetensors"]),
    "a key": (drop("clip/open_clip_model.safetensors", "in_proj_weight"), ["in_proj_weight"]),
    "no vocabulary": (lambda: Path("clip/tokenizer.json").unlink(), ["tokenizer.json"]),
    "trust_remote_code": (trusting, ["auto_map"]),
    "keywords": (clip(tokenizer_kwargs={"trust_remote_code": True}), ["tokenizer_kwargs.trust_remote_code"]),
    "auto_map": (edit("clip/tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}), ["auto_map"]),
    "a model of the Hub": (clip(hf_model_name="owner/name"), ["hf_model_name", "owner/name"]),
    "a tokenizer elsewhere": (clip(hf_tokenizer_name="../evil"), ["hf_tokenizer_name", "../evil"]),
    "an unknown key": (clip(other=1), ["text_cfg.other"]),
    "no configuration": (lambda: Path("clip/open_clip_config.json").unlink(), ["open_clip_config.json"]),
}


@pytest.mark.parametrize("case", REWARDS)
def test_a_reward_that_is_not_whole_or_hostile(world: Path, case: str) -> None:
    change, said = REWARDS[case]
    change()
    with pytest.raises(RewardError) as caught:
        load_reward(Reward(model="local-dir:clip"), CPU)
    assert all(one in caught.value.message for one in said), caught.value.message
    assert not list(world.rglob("ran"))


def test_infinity_is_a_number_of_some_schedulers(world: Path) -> None:
    """DPM solvers are saved with it, and their betas are those of DDIM."""
    file = "model/scheduler/scheduler_config.json"
    edit(file, _class_name="DPMSolverMultistepScheduler", lambda_min_clipped=float("-inf"))()
    edit("model/model_index.json", scheduler=["diffusers", "DPMSolverMultistepScheduler"])()
    load_policy(Model(id="model", device="cpu"), Sample(num_steps=4), None)


class Nameless:
    def __init__(self, device: torch.device) -> None: ...
    def __call__(self, pictures: torch.Tensor, prompts: Any) -> torch.Tensor:
        return torch.zeros(len(pictures))


def test_a_plug_in_without_identity_is_refused_before_it_scores() -> None:
    with pytest.raises(RewardError, match="identity"):
        load_plugin(f"{__name__}:Nameless", CPU)


def test_an_ignored_folder_is_found_from_the_project_s_root(
    world: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("copy"))
    monkeypatch.setenv("HOME", str(world))
    for name in ("~/model", "model"):
        load_pipeline(Model(id=name, device="cpu"))
        load_reward(Reward(model=f"local-dir:{name.replace('model', 'clip')}"), CPU)
        monkeypatch.setenv("DVC_ROOT", str(world))


XL, SD1 = (
    "model.diffusion_model.label_emb.0.0.weight",
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
)


@pytest.mark.parametrize(
    "keys, header, config, zero",
    [
        ({XL: (2,)}, {}, "sdxl", False),
        ({XL: (2,), "v_pred": (0,), "ztsnr": (0,)}, {"modelspec.prediction_type": "v"}, "sdxl-v", True),
        ({XL: (2,)}, {"modelspec.prediction_type": "v"}, "sdxl-v", False),
        ({XL: (2,)}, {"modelspec.prediction_type": "epsilon"}, "sdxl", False),
        ({XL: (2,)}, {"ss_v_parameterization": "False"}, "sdxl", False),
        ({XL: (2,)}, {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}, "sdxl-v", True),
        ({XL: (2,)}, {"modelspec.architecture": "stable-diffusion-xl-v1-base"}, "sdxl", False),
        ({SD1: (2, 768), "v_pred": (0,)}, {}, "sd15-v", False),
        ({SD1: (2, 1024)}, {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "sd21-v", False),
    ],
)
def test_what_a_single_file_says_of_itself(
    tmp_path: Path, keys: dict[str, tuple[int, ...]], header: dict[str, str], config: str, zero: bool
) -> None:
    save_file({name: torch.zeros(shape) for name, shape in keys.items()}, tmp_path / "m.safetensors", header)
    found = read_markers(tmp_path / "m.safetensors", Model(id="m.safetensors"))
    assert (found.config, found.zero_snr) == (config, zero)
    assert found.scheduler["prediction_type"] == ("v_prediction" if config.endswith("-v") else "epsilon")
    assert found.scheduler["timestep_spacing"] == ("trailing" if zero else "leading")
    assert bool(found.assumed) == (not any("pred" in one for one in (*keys, *header)) and not config.endswith("-v"))


@pytest.mark.parametrize(
    ("keys", "header", "said"),
    [
        ({XL: (2,), "edm_mean": (4,), "edm_std": (4,)}, {}, "edm_mean"),
        ({XL: (2,), "v_pred": (0,), "edm_vpred.sigma_max": (1,)}, {}, "edm_vpred.sigma_max"),
        ({XL: (2,)}, {"modelspec.prediction_type": "flow"}, "flow"),
        ({XL: (2,)}, {"prediction_type": "sample"}, "sample"),
        ({XL: (2,), "v_pred": (0,)}, {"modelspec.prediction_type": "epsilon"}, "epsilon"),
        ({XL: (2,), "ztsnr": (0,)}, {}, "ztsnr"),
        ({SD1: (2, 768)}, {"ss_v_parameterization": "False", "ss_zero_terminal_snr": "True"}, "ss_zero_terminal_snr"),
    ],
)
def test_a_single_file_that_says_something_else_or_two_things(
    tmp_path: Path, keys: dict[str, tuple[int, ...]], header: dict[str, str], said: str
) -> None:
    save_file({name: torch.zeros(shape) for name, shape in keys.items()}, tmp_path / "m.safetensors", header)
    with pytest.raises(ModelError) as caught:
        read_markers(tmp_path / "m.safetensors", Model(id="m.safetensors"))
    assert said in caught.value.message and "model." in caught.value.hint
    if "model.config" in caught.value.hint:  # as it advises
        family = "sdxl" if XL in keys else "sd15"
        for config in (family, f"{family}-v"):
            found = read_markers(tmp_path / "m.safetensors", Model(id="m.safetensors", config=config))
            assert found.config == config and not (found.zero_snr and config == family)
