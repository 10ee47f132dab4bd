"""model.vae: another autoencoder, pinned as the model is, refused where it does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from steps import change, forget, policy_of, run

from dfusion_core.commands.plan.lookup import find_architecture
from dfusion_core.errors import ModelError
from dfusion_core.models.pins import pin
from dfusion_core.models.policy import load_policy
from dfusion_core.models.source import locate
from dfusion_core.params.sections import Model, Sample
from dfusion_core.store import read_stage
from dfusion_core.testing import tiny_model

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and the autoencoder of another one, which has other weights."""
    place = tmp_path_factory.mktemp("vae")
    tiny_model(place / "model")
    shutil.copytree(tiny_model(place / "other", seed=7) / "vae", place / "vae")
    return place / "model", place / "vae"


def loaded(model: Path, vae: Path | None) -> torch.Tensor:
    """A picture of fixed latents."""
    given = Model(id=str(model), device="cpu", vae=str(vae) if vae else None)
    policy = load_policy(given, Sample(num_steps=4), None)
    return policy.decode(torch.randn(1, *policy.latent_shape, generator=torch.Generator().manual_seed(0)))


def test_it_decodes(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """A folder of its own, or the folder `vae` of a whole model: the same pictures, and not the model's own."""
    model, vae = folders
    own, other, inside = loaded(model, None), loaded(model, vae), loaded(model, vae.parent / "other")
    assert torch.equal(other, inside) and not torch.equal(own, other)


def edited(vae: Path, to: Path, **changes: object) -> Path:
    shutil.copytree(vae, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | changes))
    return to


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"latent_channels": 16}, "latent_channels 16"),
        ({"scaling_factor": 0.13025}, "scaling_factor 0.13025"),
        ({"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
        ({"auto_map": {"AutoModel": "x.y"}}, "auto_map"),
        ({"shift_factor": 0.1}, "shift_factor 0.1"),
        ({"latents_mean": [0.0] * 4}, "latents_mean"),
        ({"block_out_channels": [8, 16, 16]}, "levels 3"),
        ({"scaling_factor": float("nan")}, "scaling_factor"),
        ({"norm_num_groups": 10**9}, "norm_num_groups"),
    ],
)
def test_one_that_does_not_fit(
    folders: tuple[Path, Path], tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    model, vae = folders
    with pytest.raises(ModelError) as caught:
        loaded(model, edited(vae, tmp_path / "vae", **changes))
    assert said in caught.value.message and caught.value.message.startswith("model.vae: ")


def test_damage_and_absence_are_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, vae = folders
    lacking = shutil.copytree(vae, tmp_path / "lacking")
    tensors = load_file(lacking / WEIGHTS)
    tensors.pop("decoder.conv_in.bias")
    save_file(tensors, lacking / WEIGHTS)
    pickled = shutil.copytree(vae, tmp_path / "pickled")
    (pickled / WEIGHTS).rename(pickled / "diffusion_pytorch_model.bin")
    for bad, said in ((lacking, "decoder.conv_in.bias"), (pickled, "safetensors"), (tmp_path / "none", "none")):
        with pytest.raises(ModelError) as caught:
            loaded(model, bad)
        assert "model.vae" in str(caught.value) and said in str(caught.value)


def test_a_run_with_it(project: Path) -> None:
    """Sampling differs in its pictures alone; other weights in its place are refused by the stages after init."""
    before = read_stage("sample", "r00").array("picture")[:]
    latents = read_stage("sample", "r00").array("x")[:]
    shutil.copytree(tiny_model(project / "other", seed=7) / "vae", project / "vae")
    change(model={"vae": "vae"})
    forget("train", "init")
    forget("sample")
    run("init")
    run("sample")
    assert f"model.vae/{WEIGHTS}" in json.loads(Path("runs/init/train/pin.json").read_text())["files"]
    assert np.array_equal(read_stage("sample", "r00").array("x")[:], latents)
    assert not np.array_equal(read_stage("sample", "r00").array("picture")[:], before)
    tensors = load_file(f"vae/{WEIGHTS}")
    save_file({name: 2 * value for name, value in tensors.items()}, f"vae/{WEIGHTS}")
    with pytest.raises(ModelError) as caught:
        policy_of("init")
    assert f"model.vae/{WEIGHTS}" in str(caught.value)


def test_the_pin_and_the_plan(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, vae = folders
    wide = edited(vae, tmp_path / "wide", block_out_channels=[8, 16])
    given = Model(id=str(model), vae=str(vae))
    assert set(pin(given, locate(given))["files"]) - set(
        pin(Model(id=str(model)), locate(Model(id=str(model))))["files"]
    ) == {
        f"model.vae/{WEIGHTS}",
        "model.vae/config.json",
    }
    assert find_architecture(Model(id=str(model), vae=str(wide))).vae["block_out_channels"] == [8, 16]
