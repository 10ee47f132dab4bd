"""The fingerprint and the pin hold every file that decides a result, wherever it lies, and no other."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from steps import run

from dfusion_core.errors import ModelError
from dfusion_core.models.pins import check_pin, pin
from dfusion_core.models.source import locate, model_inputs
from dfusion_core.params.sections import Model, Reward
from dfusion_core.rewards.plugins import reward_inputs
from dfusion_core.store.inputs import hash_inputs
from dfusion_core.testing import tiny_params

MODEL = Model(id="model", device="cpu")


@pytest.fixture
def world(workspace: Path) -> Iterator[Path]:
    tiny_params(workspace)
    sys.path.append(str(workspace))
    yield workspace
    sys.path.remove(str(workspace))


def of_model(model: Model = MODEL) -> tuple[dict[str, str], dict[str, str]]:
    """What goes into the fingerprint, and into the pin."""
    return hash_inputs("init", dict(model_inputs(model))), pin(model, locate(model))["files"]


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_a_part_that_is_a_link(world: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = of_model()
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "unet"
    shutil.move("model/unet", elsewhere)
    Path("model/unet").symlink_to(elsewhere)
    assert of_model() == before
    flip(elsewhere / "diffusion_pytorch_model.safetensors")
    assert of_model()[0] != before[0] and of_model()[1] != before[1]


def test_a_model_that_is_a_link(world: Path) -> None:
    before = of_model()
    shutil.move("model", "moved")
    Path("model").symlink_to("moved")
    assert of_model() == before
    flip(Path("moved/vae/diffusion_pytorch_model.safetensors"))
    assert of_model()[0] != before[0]


def test_files_that_are_not_read(world: Path) -> None:
    """Time stamps of the Hub's cache, a card, other formats of the weights, parts that no stage loads."""
    before = of_model()
    for name in (".cache/huggingface/download/x.metadata", "README.md", "unet/diffusion_pytorch_model.bin",
                 "unet/diffusion_pytorch_model.fp16.safetensors", "safety_checker/model.safetensors", ".gitattributes",
                 "model.ckpt"):  # fmt: skip
        file = Path("model", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("now")
    assert of_model() == before


@pytest.mark.parametrize("name", ["tokenizer/tokenizer.json", "scheduler/scheduler_config.json", "unet/config.json",
                                  "text_encoder/model.safetensors", "model_index.json"])  # fmt: skip
def test_files_that_are_read(world: Path, name: str) -> None:
    before = of_model()
    flip(Path("model", name))
    after = of_model()
    assert after[0] != before[0] and after[1] != before[1]


def test_two_files_that_changed_places(world: Path) -> None:
    run("init")
    pinned = pin(MODEL, locate(MODEL))
    check_pin(pinned, MODEL, locate(MODEL))
    one, other = Path("model/unet/config.json"), Path("model/vae/config.json")
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    with pytest.raises(ModelError, match=r"unet/config\.json"):
        check_pin(pinned, MODEL, locate(MODEL))


def test_configurations_of_a_single_file(world: Path) -> None:
    shutil.copy("model/unet/diffusion_pytorch_model.safetensors", "one.safetensors")
    model = Model(id="one.safetensors", config="model")
    before = of_model(model)
    flip(Path("model/scheduler/scheduler_config.json"))
    after = of_model(model)
    assert after[0] != before[0] and after[1] != before[1]
    pinned = pin(model, locate(model))
    shutil.move("one.safetensors", "renamed.safetensors")
    renamed = Model(id="renamed.safetensors", config="model")
    check_pin(pinned, renamed, locate(renamed))


def test_weights_behind_reward_pretrained(world: Path) -> None:
    Path("weights.safetensors").write_bytes(b"one")
    reward = Reward(model="ViT-B-32", pretrained="weights.safetensors")
    before = hash_inputs("score", dict(reward_inputs(reward)))
    Path("weights.safetensors").write_bytes(b"two")
    assert hash_inputs("score", dict(reward_inputs(reward))) != before


def test_modules_that_a_plug_in_imports(world: Path) -> None:
    Path("helpers").mkdir()
    Path("helpers/__init__.py").write_text("")
    Path("helpers/scale.py").write_text("SCALE = 1\n")
    Path("mine_deciding.py").write_text("def late():\n    from helpers import scale\n\nclass A: ...\n")
    Path("unrelated.py").write_text("")
    reward = Reward(model="local-dir:clip", plugins={"mine_deciding:A": 1.0})
    before = hash_inputs("score", dict(reward_inputs(reward)))
    Path("unrelated.py").write_text("X = 1\n")
    Path("clip/README.md").write_text("a card")
    assert hash_inputs("score", dict(reward_inputs(reward))) == before
    Path("helpers/scale.py").write_text("SCALE = 2\n")
    assert hash_inputs("score", dict(reward_inputs(reward))) != before
