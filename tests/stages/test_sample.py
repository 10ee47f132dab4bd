"""sample: every stored state can be derived again from the one before it, and depends on nothing it should not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from steps import T, array, change, content, forget, mean_and_std, policy_of, run, scheduler

from dfusion_core.attention.control import capturing
from dfusion_core.attention.masks import item_tokens
from dfusion_core.diffusion.noise import image_seed, trajectory_noises
from dfusion_core.errors import BadNumber, MissingStage, ParamsError, PromptsError
from dfusion_core.models.policy import Policy
from dfusion_core.store import read_stage
from dfusion_core.store.schema import ARRAYS
from dfusion_core.testing import PROMPTS

TEXTS = [one["prompt"] for one in PROMPTS["train"] for _ in range(4)]  # of the eight images
BATCH_TOLERANCE = 1e-4  # of a latent of size 7: another batch shape sums in another order


def test_arrays_are_those_of_the_schema(project: Path) -> None:
    sizes = {
        "image": 8,
        "state": T + 1,
        "i": T,
        "item": 2,
        "channel": 4,
        "height": 8,
        "width": 8,
        "map_y": 4,
        "map_x": 4,
        "row": 16,
        "column": 16,
        "rgb": 3,
    }
    data = read_stage("sample", "r00")
    assert data.names == sorted(one.name for one in ARRAYS["sample"])
    for declared in ARRAYS["sample"]:
        stored = data.array(declared.name)
        assert stored.metadata.dimension_names == declared.dims
        assert stored.shape == tuple(sizes[dim] for dim in declared.dims)
        assert stored.dtype == declared.dtype
        assert np.isfinite(stored[:]).all()


def test_the_table_says_which_image_is_what(project: Path) -> None:
    images = read_stage("sample", "r00").table("images")
    assert list(images.columns) == ["image", "prompt_id", "prompt", "sample", "seed"]
    assert images.image.tolist() == list(range(8))
    assert images.prompt.tolist() == TEXTS
    assert images.seed.tolist() == [image_seed(0, "r00", p, n) for p in range(2) for n in range(4)]


@pytest.mark.parametrize(("round", "before"), [("r00", "init"), ("r01", "r00")])
def test_each_state_follows_from_the_one_before(project: Path, round: str, before: str) -> None:
    """Eq. (1) with diffusers' own sampler and the image's own noise, under the adapter of the round before."""
    x, log_prob = array("sample", "x", round), array("sample", "log_prob", round)
    policy, their = policy_of(before), scheduler()
    text = policy.embed(TEXTS)
    x_T, z = trajectory_noises(read_stage("sample", round).table("images").seed, policy.latent_shape, T)
    assert torch.equal(x[:, 0], x_T)
    for i in range(T):
        with torch.no_grad():
            eps = policy.predict_noise(x[:, i], i, text)
        theirs = their.step(eps, their.timesteps[i], x[:, i], eta=1.0, variance_noise=z[:, i]).prev_sample
        torch.testing.assert_close(x[:, i + 1], theirs, rtol=0, atol=BATCH_TOLERANCE)
        mean, std = mean_and_std(policy, x[:, i], eps, i)
        torch.testing.assert_close(x[:, i + 1], mean + std * z[:, i], rtol=0, atol=BATCH_TOLERANCE)
        # x_{t-1} = mean + std z, so its density is that of z, per latent element
        normal = (-0.5 * z[:, i] ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)).mean(dim=(1, 2, 3))
        torch.testing.assert_close(log_prob[:, i], normal, rtol=0, atol=1e-4)


def test_pictures_are_the_decoded_last_states(project: Path) -> None:
    vae = policy_of("init").vae
    with torch.no_grad():
        pixels = vae.decode(array("sample", "x")[:, -1] / vae.config.scaling_factor).sample
    expected = ((pixels / 2 + 0.5).clamp(0, 1) * 255).permute(0, 2, 3, 1)
    assert (array("sample", "picture").float() - expected).abs().max() < 0.501


def test_maps_are_those_of_the_items(project: Path) -> None:
    """Captured again from the stored states; a prompt with one item has zeros in the place of a second."""
    x, maps, policy = array("sample", "x"), array("sample", "cross_map"), policy_of("init")
    text = policy.embed(TEXTS)
    for i in range(T):
        with torch.no_grad(), capturing(policy.unet, "up_1") as tap:
            policy.predict_noise(x[:, i], i, text)
        for image, one in enumerate(PROMPTS["train"][p] for p in range(2) for _ in range(4)):
            for k, item in enumerate(one["items"]):
                (token,) = item_tokens(policy.tokenizer, str(one["prompt"]), item)
                seen = tap.maps()[8 + image, :, :, token]  # rows 8 to 15 are the conditional half
                torch.testing.assert_close(maps[image, i, k], seen, rtol=0, atol=1e-5)
    assert not maps[4:, :, 1].any()
    assert maps[:4].min() > 0 and maps.max() < 1


def test_the_batch_size_does_not_matter(project: Path) -> None:
    first = {name: array("sample", name) for name in ("x", "log_prob", "cross_map", "picture")}
    change(sample={"batch_size": 3})
    run("sample")
    torch.testing.assert_close(array("sample", "x"), first["x"], rtol=0, atol=BATCH_TOLERANCE)
    torch.testing.assert_close(array("sample", "log_prob"), first["log_prob"], rtol=0, atol=BATCH_TOLERANCE)
    torch.testing.assert_close(array("sample", "cross_map"), first["cross_map"], rtol=0, atol=BATCH_TOLERANCE)
    assert (array("sample", "picture").int() - first["picture"].int()).abs().max() <= 1


def test_the_same_seed_gives_the_same_bytes(project: Path, finished: Path) -> None:
    forget("sample")
    run("sample")
    assert content(Path("runs/r00/sample")) == content(finished / "runs/r00/sample")
    before = array("sample", "x")
    change(seed=1)
    run("init")
    run("sample")
    assert not torch.isclose(array("sample", "x"), before).any(dim=(1, 2, 3, 4)).all()


def test_parameters_of_others_do_not_matter(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(adopt={"threshold": 0.9}, train={"learning_rate": 0.5}, launcher={"sample": "nice python"})
    run("sample")
    assert capsys.readouterr().out == "sample r00: is there already (8 rows); nothing to do.\n"


def test_fewer_prompts(project: Path) -> None:
    change(prompts={"train_count": 1})
    run("sample")
    assert read_stage("sample", "r00").table("images").prompt.tolist() == TEXTS[:4]
    change(prompts={"train_count": 3})
    with pytest.raises(PromptsError, match="3 train prompts are asked for, the file has 2"):
        run("sample")


def break_unet(patch: pytest.MonkeyPatch, i: int, part: int, row: int) -> None:
    """Make the prediction of one row of one part NaN at one step."""
    predict, calls = Policy.predict_noise, {"at_i": 0}

    def broken(self: Policy, x_t: torch.Tensor, step: Any, *rest: Any) -> torch.Tensor:
        eps = predict(self, x_t, step, *rest)
        if step == i:
            if calls["at_i"] == part:
                eps[row] = float("nan")
            calls["at_i"] += 1
        return eps

    patch.setattr(Policy, "predict_noise", broken)


def test_a_nan_is_located_and_nothing_is_published(
    project: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = read_stage("sample", "r00").table("images").seed[5]
    forget("sample")
    with monkeypatch.context() as patch, pytest.raises(BadNumber) as caught:
        break_unet(patch, i=2, part=1, row=1)
        run("sample")
    assert caught.value.message == (
        f"the latent of image 5 ('a blue and dotted square', seed {seed}) is NaN or infinite at t = 2."
    )
    assert "try fp32" in caught.value.hint
    assert not Path("runs/r00/sample").exists()
    capsys.readouterr()
    run("sample")  # repaired: what was finished before is kept
    assert "sample r00: continues; 4 of 8 rows were finished before." in capsys.readouterr().out
    assert content(Path("runs/r00/sample")) == content(finished / "runs/r00/sample")


def test_an_unknown_round(project: Path) -> None:
    with pytest.raises(ParamsError) as caught:
        run("sample", "r07")
    assert "'r07'" in caught.value.message and "dvc exp run -S +rounds.r07.prev=r01" in caught.value.hint


def test_the_round_before_is_missing(project: Path) -> None:
    forget("train", "init")
    with pytest.raises(MissingStage) as caught:
        run("sample")
    assert str(caught.value) == (
        "sample: its input 'adapter' is missing: there is no runs/init/train. Make it with 'dvc repro -s init'."
    )


def test_an_item_that_is_not_in_the_prompt(project: Path) -> None:
    text = Path("prompts.yaml").read_text()
    Path("prompts.yaml").write_text(text.replace("- square", "- cat"))
    change(seed=1)
    with pytest.raises(PromptsError, match="the item 'cat' is not a word of the prompt"):
        run("sample")


def test_a_missing_prompt_file(project: Path) -> None:
    change(prompts={"file": "nowhere.yaml"})
    with pytest.raises(PromptsError, match=r"prompts: there is no file nowhere.yaml. Set prompts.file"):
        run("sample")
