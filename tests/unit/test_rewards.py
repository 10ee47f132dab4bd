"""Rewards: open_clip's preprocessing on tensors, and rewards that a user adds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from dfusion_core.errors import RewardError
from dfusion_core.params.sections import Reward
from dfusion_core.rewards.identity import require_same_reward
from dfusion_core.rewards.plugins import load_plugin, reward_inputs, state_hash
from dfusion_core.rewards.scoring import load_reward, on_tensors, tensor_steps
from dfusion_core.testing import tiny_clip

CPU = torch.device("cpu")


class Brightness:
    """Mean of all values, 0 to 1."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, pictures: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        assert pictures.shape[1] == 3 and pictures.dtype == torch.uint8 and len(pictures) == len(prompts)
        return pictures.float().mean(dim=(1, 2, 3)) / 255

    def identity(self) -> str:
        return "brightness 1"


class OneShort(Brightness):
    def __call__(self, pictures: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return super().__call__(pictures, prompts)[1:]


class NotANumber(Brightness):
    def __call__(self, pictures: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return super().__call__(pictures, prompts) * float("nan")


class NeedsMore:
    def __init__(self) -> None:
        raise AssertionError("is made with the device, so this is never reached")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Pictures with edges and gradients, as resampling must treat both alike: (4, 48, 64, 3)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :64]
    smooth = np.stack([4 * x % 256, 5 * y % 256, (x + y) * 2 % 256], axis=-1).astype(np.uint8)
    blocks = np.kron(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    return np.stack([smooth, blocks, 255 - smooth, blocks[::-1]])


def parameters(folder: Path, **changes: object) -> Reward:
    return Reward.model_validate({"model": f"local-dir:{folder}", "pretrained": ""} | changes)


@pytest.mark.parametrize("size", [16, 40, 64, 224])  # smaller and larger than the picture
@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
def test_tensors_are_preprocessed_as_pil_pictures_are(pictures: np.ndarray, size: int, mode: str) -> None:
    transform = open_clip.image_transform(size, is_train=False, resize_mode=mode, interpolation="bicubic")
    expected = torch.stack([transform(Image.fromarray(one)) for one in pictures])
    found = on_tensors(transform)(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    assert found.shape == expected.shape
    assert (tensor_steps(transform) is not None) == (mode != "longest")  # else PIL is compared with PIL
    std = torch.tensor(open_clip.OPENAI_DATASET_STD)[:, None, None]
    levels = (found - expected).abs() * std * 255
    assert float(levels.max()) <= 2.01  # rounding after each of the two passes; 22 in one pass
    assert float(levels.mean()) <= 0.06


def test_the_paper_s_preprocessing_is_open_clips() -> None:
    """ViT-H-14 takes 224 x 224, bicubic, OpenAI's mean and standard deviation; nothing is loaded here."""
    config = open_clip.get_model_config("ViT-H-14")
    assert config is not None and config["vision_cfg"]["image_size"] == 224
    tag = open_clip.get_pretrained_cfg("ViT-H-14", "laion2b_s32b_b79k")
    assert (tag["mean"], tag["std"]) == (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    assert tag["interpolation"] == "bicubic"


def test_the_reward_is_the_weighted_sum(clip_folder: Path, pictures: np.ndarray) -> None:
    prompts = ["a heart", "a star", "a heart", "a blue square"]
    plain = load_reward(parameters(clip_folder), CPU)(pictures, prompts)
    assert list(plain.terms) == ["clip"] and (plain.terms["clip"] == plain.reward).all()
    name = f"{__name__}:Brightness"
    reward = load_reward(parameters(clip_folder, weight=2.0, plugins={name: -0.5}, batch_size=3), CPU)
    found = reward(pictures, prompts)
    bright = np.array([one.mean() / 255 for one in pictures])
    np.testing.assert_allclose(found.terms["clip"], plain.reward, atol=1e-6)
    np.testing.assert_allclose(found.terms[name], bright, atol=1e-6)
    np.testing.assert_allclose(found.reward, 2 * plain.reward - 0.5 * bright, atol=1e-6)
    np.testing.assert_allclose((found.embedding**2).sum(axis=1), 1, atol=1e-5)
    assert reward.terms == list(found.terms)


def test_what_a_score_depends_on_is_recorded(clip_folder: Path, tmp_path: Path) -> None:
    name = f"{__name__}:Brightness"
    first = load_reward(parameters(clip_folder, plugins={name: 0.5}), CPU).identity()
    assert first["plugins"] == {name: {"weight": 0.5, "identity": "brightness 1"}}
    other = load_reward(parameters(tiny_clip(tmp_path, seed=1), plugins={name: 0.5}), CPU).identity()
    assert first["clip"]["sha256"] != other["clip"]["sha256"]
    again = load_reward(parameters(clip_folder, plugins={name: 0.5}), CPU).identity()
    assert require_same_reward({"score@r00": first, "adopt@r00": again}) == first
    with pytest.raises(RewardError, match="different rewards.*dvc repro -f -s score@r00"):
        require_same_reward({"score@r00": first, "adopt@r00": other})


def test_the_hash_is_of_names_types_shapes_and_bytes() -> None:
    state = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor([3], dtype=torch.int64)}
    by_hand = hashlib.sha256(
        b"a torch.int64 (1,)"
        + (3).to_bytes(8, "little")
        + b"b torch.float32 (1, 2)"
        + np.array([1, 2], "<f4").tobytes()
    ).hexdigest()
    assert state_hash(state) == by_hand
    assert state_hash({**state, "b": state["b"].bfloat16()}) != by_hand


def test_a_changed_plugin_is_another_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_reward_module.py").write_text("class Any: ...\n")
    reward = parameters(tmp_path / "nowhere", plugins={"own_reward_module:Any": 1.0})
    assert reward_inputs(reward) == {"reward plug-in own_reward_module:Any": [tmp_path / "own_reward_module.py"]}


@pytest.mark.parametrize(
    "name, said",
    [
        ("nowhere_at_all:Reward", "there is no module 'nowhere_at_all'"),
        ("nowhere.at.all:Reward", "there is no module 'nowhere.at.all'"),
        ("brigthness", "no installed package offers a reward 'brigthness'"),
    ],
)
def test_a_plugin_that_is_not_there(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(RewardError) as caught:
        reward_inputs(parameters(tmp_path, plugins={name: 1.0}))
    assert caught.value.message.startswith("reward.plugins: ") and said in caught.value.message


@pytest.mark.parametrize("name, said", [("NoSuchClass", "AttributeError"), ("NeedsMore", "TypeError")])
def test_a_plugin_that_cannot_be_made(name: str, said: str) -> None:
    with pytest.raises(RewardError, match=f"'{__name__}:{name}' cannot be made: {said}"):
        load_plugin(f"{__name__}:{name}", CPU)


@pytest.mark.parametrize("name, said", [("OneShort", r"shape \(3,\)"), ("NotANumber", "4 are NaN or infinite")])
def test_a_plugin_that_returns_something_else(clip_folder: Path, pictures: np.ndarray, name: str, said: str) -> None:
    reward = load_reward(parameters(clip_folder, plugins={f"{__name__}:{name}": 1.0}), CPU)
    with pytest.raises(RewardError, match=f"must return 4 finite numbers for 4 pictures, not a tensor of.*{said}"):
        reward(pictures, ["a"] * 4)


def test_an_architecture_needs_weights() -> None:
    """open_clip itself would warn and score with random numbers."""
    with pytest.raises(RewardError, match="reward.pretrained: is empty, but 'ViT-B-32' is an architecture"):
        load_reward(Reward(model="ViT-B-32", pretrained=""), CPU)


def test_a_file_of_weights(tmp_path: Path, pictures: np.ndarray) -> None:
    """``pretrained`` may be a local file for one of open_clip's architectures."""
    from safetensors.torch import save_file

    torch.manual_seed(3)
    model = open_clip.create_model("ViT-S-32-alt", load_weights=False)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    reward = load_reward(Reward(model="ViT-S-32-alt", pretrained=str(tmp_path / "weights.safetensors")), CPU)
    assert reward.identity()["clip"]["sha256"] == state_hash(model.state_dict())


class FromTransformers:
    """The scheme of the example in docs/rewards.md, with a small random model of the same classes."""

    def __init__(self, device: torch.device) -> None:
        from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

        torch.manual_seed(0)
        small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = CLIPConfig(
            text_config={**small, "vocab_size": 64},
            projection_dim=8,
            vision_config={**small, "image_size": 32, "patch_size": 16},
        )
        self.model, self.images = (
            CLIPModel(config).eval().to(device),
            CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        )

    def __call__(self, pictures: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        pixels = self.images(images=list(pictures), return_tensors="pt")["pixel_values"]
        words = torch.tensor([[1, 2 + len(prompt), 3] for prompt in prompts])
        out = self.model(input_ids=words, pixel_values=pixels)
        return torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)

    def identity(self) -> str:
        return state_hash(self.model.state_dict())


def test_a_model_of_transformers_as_a_plugin(clip_folder: Path, pictures: np.ndarray) -> None:
    name, prompts = f"{__name__}:FromTransformers", ["a", "bb", "ccc", "dddd"]
    reward = load_reward(parameters(clip_folder, weight=0.0, plugins={name: 1.0}, batch_size=3), CPU)
    single = [reward(pictures[i : i + 1], prompts[i : i + 1]).reward[0] for i in range(4)]
    np.testing.assert_allclose(reward(pictures, prompts).reward, single, atol=1e-5)
    assert len(set(single)) == 4
