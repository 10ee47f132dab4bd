"""sample.height and sample.width: pictures of another size than the model's own, and not square."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from steps import array, change, noise_of_diffusers, run

from dfusion_core.attention.fusion import resize
from dfusion_core.commands.plan.costs import count_costs
from dfusion_core.errors import ParamsError
from dfusion_core.models.policy import load_policy
from dfusion_core.params import load_everything
from dfusion_core.params.sections import Model, Sample
from dfusion_core.rewards.scoring import load_reward
from dfusion_core.store import read_stage
from dfusion_core.store.paths import ROUND_STAGES
from dfusion_core.testing import tiny_params, tiny_sdxl

HIGH, WIDE = 16, 32  # the model's own is 16 x 16; latents have half of it


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A round whose pictures are twice as wide as high, with half the keys and values stored. Not to be changed."""
    folder = tmp_path_factory.mktemp("wide")
    tiny_params(folder, sample={"height": HIGH, "width": WIDE}, extract={"keep_kv": 2}, lora={"targets": ["to_v"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        run("init")
        run("evaluate", "init")
        for stage in ROUND_STAGES:
            run(stage)
    return folder


@pytest.mark.slow
def test_a_round_of_wide_pictures(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(wide)
    assert array("sample", "x").shape[2:] == (4, HIGH // 2, WIDE // 2)
    for stage in ("sample", "fuse", "evaluate"):
        assert array(stage, "picture").shape[1:] == (HIGH, WIDE, 3)
    mask = array("extract", "mask")
    assert mask.shape[2:] == array("sample", "cross_map").shape[3:] == (HIGH // 4, WIDE // 4)
    assert (read_stage("train", "r00").table("updates").gradient_norm > 0).all()


@pytest.mark.slow
def test_fusion_takes_rows_and_columns_in_their_order(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored keys and values, and those computed in lock-step, are fused by the same mask; and where the mask has only
    the left half, targets follow their references there."""
    from dfusion_core.attention.control import fusing, recording_kv

    monkeypatch.chdir(wide)
    policy = load_policy(Model(id="model", device="cpu"), load_everything().sample, None)
    x = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    text = policy.embed(["a heart", "a heart"])
    left = torch.zeros(2, HIGH // 4, WIDE // 4, dtype=torch.bool)
    left[:, :, : WIDE // 8] = True
    assert resize(left, (HIGH // 2, WIDE // 2))[0, :, : WIDE // 4].all()
    with torch.no_grad(), recording_kv(policy.unet, ["up_2"]) as tap:
        policy.predict_noise(x[:1], 1, text[:1])
        stored = {name: (K.clone(), V.clone()) for name, (K, V) in tap.kv.items()}
    with torch.no_grad(), fusing(policy.unet, ["up_2"], left, stored=stored):
        alone = policy.predict_noise(x[1:], 1, text[:1])
    rows = {"reference_rows": torch.tensor([0, 2]), "target_rows": torch.tensor([1, 3])}
    with torch.no_grad(), fusing(policy.unet, ["up_2"], left, **rows):
        together = policy.predict_noise(x, 1, text)
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-4)
    assert not torch.allclose(alone, policy.predict_noise(x[1:], 1, text[:1]).detach(), atol=1e-2)


def test_one_side_alone_and_none(wide: Path) -> None:
    shapes = [
        load_policy(Model(id=str(wide / "model"), device="cpu"), Sample(num_steps=4, **sides), None).latent_shape
        for sides in ({}, {"width": 32}, {"height": 24, "width": 16})
    ]
    assert shapes == [(4, 8, 8), (4, 8, 16), (4, 12, 8)]


@pytest.mark.parametrize(("key", "value", "nearest"), [("height", 20, "16 or 24"), ("width", 4, "8")])
def test_a_side_that_does_not_divide(wide: Path, key: str, value: int, nearest: str) -> None:
    with pytest.raises(ParamsError) as caught:
        load_policy(Model(id=str(wide / "model"), device="cpu"), Sample(**{key: value}), None)
    said = str(caught.value)
    assert f"sample.{key}" in said and f"got {value}" in said and f"Set sample.{key} to {nearest}" in said


def test_sdxl_is_told_height_before_width(tmp_path: Path) -> None:
    """As diffusers' pipeline tells it: its guided noise of the same latents."""
    folder = tiny_sdxl(tmp_path / "sdxl")
    asked = {"num_steps": 4, "guidance_scale": 3.0}
    policy = load_policy(Model(id=str(folder), device="cpu"), Sample(**asked, height=HIGH, width=WIDE), None)
    x = torch.randn(1, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    found = policy.predict_noise(x, 0, policy.embed(["a heart"]))
    expected = noise_of_diffusers(folder, x, "a heart", height=HIGH, width=WIDE)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    square = load_policy(Model(id=str(folder), device="cpu"), Sample(**asked), None)
    assert not torch.allclose(found, square.predict_noise(x, 0, square.embed(["a heart"])), atol=1e-3)


@pytest.mark.slow
def test_the_plan_counts_the_size(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(wide)
    params = load_everything()
    found = count_costs(params, torch.float32)
    own = count_costs(params.model_copy(update={"sample": Sample(num_steps=4)}), torch.float32)
    assert (found.sizes["height"], found.sizes["width"]) == (HIGH // 2, WIDE // 2)
    assert (found.sizes["row"], found.sizes["column"]) == (HIGH, WIDE)
    assert found.decode_flops == 2 * own.decode_flops
    assert 1.9 < found.row_flops / own.row_flops < 2.5


def test_clip_says_what_it_does_not_see(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its preprocessing takes the middle: of a picture twice as wide as high, half."""
    monkeypatch.chdir(wide)
    reward = load_reward(load_everything().reward, torch.device("cpu"))
    said = reward.margins_cut(HIGH, WIDE)
    assert "50%" in said and "16x32" in said and not reward.margins_cut(HIGH, HIGH)
    picture = np.random.default_rng(0).integers(0, 256, (1, HIGH, WIDE, 3), dtype=np.uint8)
    other = picture.copy()
    other[:, :, : WIDE // 4] = 0
    one, two = reward(picture, ["a heart"]), reward(other, ["a heart"])
    assert abs(float(one.reward[0] - two.reward[0])) < 1e-6


def test_doctor_reports_and_thresholds_take_it(wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from typer.testing import CliRunner

    from dfusion_core.commands.cli import app

    folder = Path(shutil.copytree(wide, tmp_path / "copy"))
    monkeypatch.chdir(folder)
    change(sample={"height": HIGH, "width": WIDE}, lora={"targets": ["to_v"]})
    said = CliRunner().invoke(app, ["doctor", "--json"], env={"COLUMNS": "200"}).output
    assert "4x8x16" in said and "16x32" in said and "8x16" in said
    assert CliRunner().invoke(app, ["thresholds", "--images", "1"]).exit_code == 0
