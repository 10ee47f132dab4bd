"""init: a zero adapter from a seed, and the model's hashes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from steps import change, content, forget, policy_of, run

from dfusion_core.errors import ModelError, ParamsError
from dfusion_core.models.policy import load_policy
from dfusion_core.params import load_params
from dfusion_core.store import verify
from dfusion_core.store.provenance import hash_file
from dfusion_core.testing import tiny_model

ADAPTER = Path("runs/init/train/adapter/pytorch_lora_weights.safetensors")


def test_the_adapter_does_nothing_yet(project: Path) -> None:
    """B = 0: noise predictions with and without the adapter are equal; A is not zero."""
    tensors = load_file(ADAPTER)
    for name, value in tensors.items():
        assert name.startswith("unet.") and name.endswith((".lora_A.weight", ".lora_B.weight"))
        assert bool(value.any()) == name.endswith(".lora_A.weight")
    params = load_params("model", "sample")
    bare, adapted = load_policy(params.model, params.sample, None), policy_of("init")
    x_t = torch.randn(2, *bare.latent_shape, generator=torch.Generator().manual_seed(0))
    text = bare.embed(["the star above the moon"] * 2)
    torch.testing.assert_close(adapted.predict_noise(x_t, 1, text), bare.predict_noise(x_t, 1, text), rtol=0, atol=1e-6)


def test_rank_and_targets(project: Path) -> None:
    """Each of the four projections of each attention has one A and one B of the rank asked for."""
    change(lora={"rank": 3, "targets": ["to_q", "to_v"]})
    run("init")
    tensors = load_file(ADAPTER)
    assert {min(value.shape) for value in tensors.values()} == {3}
    attentions = sum(name.endswith(".to_q") for name, _ in policy_of("init").unet.named_modules())
    assert len(tensors) == attentions * 2 * 2


def test_the_pin_names_every_file_of_the_model(project: Path) -> None:
    pin = json.loads(Path("runs/init/train/pin.json").read_text())
    files = [path for path in Path("model").rglob("*") if path.is_file()]
    assert pin == {
        "id": "model",
        "revision": None,
        "variant": None,
        "files": {str(path.relative_to("model")): hash_file(path) for path in files},
    }
    assert verify("runs/init") == []


def test_the_seed_decides_the_bytes(project: Path, finished: Path) -> None:
    forget("train", "init")
    run("init")
    assert content(Path("runs/init/train")) == content(finished / "runs/init/train")
    change(seed=1)
    run("init")
    assert hash_file(ADAPTER) != hash_file(finished / ADAPTER)


def test_other_weights_are_noticed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("init")
    assert "init init: is there already" in capsys.readouterr().out
    Path("model/note.txt").write_text("a file that nothing reads")
    run("init")
    assert "init init: is there already" in capsys.readouterr().out
    tiny_model(Path("model"), seed=1)
    run("init")
    assert "init init: is made again, because the input 'model' changed." in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["nowhere", "./nowhere"])
def test_a_missing_model_folder(project: Path, missing: str) -> None:
    change(model={"id": missing})
    with pytest.raises(ModelError) as caught:
        run("init")
    assert caught.value.message == f"model.id: there is no folder or file '{missing}'."
    assert caught.value.hint.startswith("Set model.id to a folder in diffusers format")


def test_a_model_without_weights(project: Path) -> None:
    Path("model/unet/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match="model.variant: unet of 'model' has no safetensors"):
        run("init")


def test_a_wrong_name_in_params(project: Path) -> None:
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("algo: dpo", "algo: ddop"))
    with pytest.raises(ParamsError, match=r'algo: Input should be .* \(got "ddop"\)'):
        run("init")
