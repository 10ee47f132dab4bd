"""extract: Algorithm 1 on the scores, Eq. (4) on the stored maps, keys and values of as many references as asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from steps import T, array, change, content, forget, policy_of, run

from dfusion_core.errors import MaskError, MissingStage, ParamsError
from dfusion_core.store import read_stage
from dfusion_core.store.schema import ARRAYS

FUSED = 3  # steps: from t = 3 to t = 1
SELF_ATTENTION = {  # of the layers mid, up_1, up_2
    "mid.0": "mid_block.attentions.0",
    "up_1.0": "up_blocks.1.attentions.0",
    "up_1.1": "up_blocks.1.attentions.1",
    "up_2.0": "up_blocks.2.attentions.0",
    "up_2.1": "up_blocks.2.attentions.1",
}


def ranked() -> list[list[int]]:
    """Of each prompt its images, best first."""
    scores = read_stage("score", "r00").table("scores")
    return [group.sort_values("reward", ascending=False).image.tolist() for _, group in scores.groupby("prompt_id")]


def test_pairs_follow_algorithm_1(project: Path) -> None:
    """The better half of each prompt's images, in order, with the worse half in order."""
    pairs = read_stage("extract", "r00").table("pairs")
    expected = [both for best in ranked() for both in zip(best[:2], best[2:], strict=True)]
    assert list(zip(pairs.reference_image, pairs.base_image, strict=True)) == expected
    images, scores = read_stage("sample", "r00").table("images"), read_stage("score", "r00").table("scores")
    assert pairs.pair.tolist() == [0, 1, 2, 3]
    assert pairs.base_seed.tolist() == images.seed[pairs.base_image].tolist()
    assert pairs.prompt.tolist() == images.prompt[pairs.reference_image].tolist()
    assert pairs.reference_reward.tolist() == scores.reward[pairs.reference_image].tolist()
    assert pairs.base_reward.tolist() == scores.reward[pairs.base_image].tolist()
    assert (pairs.reference_reward > pairs.base_reward).all()


def test_references_are_listed_once(project: Path) -> None:
    pairs, references = (read_stage("extract", "r00").table(name) for name in ("pairs", "references"))
    assert references.image.tolist() == sorted(pairs.reference_image)
    assert references.image[pairs.reference].tolist() == pairs.reference_image.tolist()
    change(pairing={"mode": "top_quarter_twice"})
    run("extract")
    pairs, references = (read_stage("extract", "r00").table(name) for name in ("pairs", "references"))
    assert pairs.reference_image.tolist() == [best[0] for best in ranked() for _ in range(2)]
    assert pairs.base_image.tolist() == [image for best in ranked() for image in best[2:]]
    assert len(references) == 2


def test_arrays_are_those_of_the_schema(project: Path) -> None:
    sizes = {"reference": 4, "i": T, "item": 2, "map_y": 4, "map_x": 4}
    data = read_stage("extract", "r00")
    assert data.names == sorted(one.name for one in ARRAYS["extract"])
    for declared in ARRAYS["extract"]:
        stored = data.array(declared.name)
        assert stored.metadata.dimension_names == declared.dims
        assert stored.shape == tuple(sizes[dim] for dim in declared.dims)
        assert stored.dtype == bool


@pytest.mark.few(1)
@pytest.mark.parametrize("threshold", ["relative", "absolute"])
@pytest.mark.parametrize("merge", ["xor", "or"])
def test_masks_are_the_thresholded_maps(project: Path, threshold: str, merge: str) -> None:
    """Eq. (4) by hand. The second prompt has one item: its mask is that item's."""
    change(extract={"threshold": threshold, "relative_threshold": 1.1, "merge": merge})
    run("extract")
    references = read_stage("extract", "r00").table("references")
    maps = array("sample", "cross_map").numpy()[references.image]
    thr = 1.1 * maps.mean(axis=(-2, -1), keepdims=True) if threshold == "relative" else 0.05
    first, second = np.moveaxis(maps >= thr, 2, 0)
    second[references.prompt_id == 1] = False
    np.testing.assert_array_equal(array("extract", "item_mask").numpy(), np.stack([first, second], axis=2))
    expected = first ^ second if merge == "xor" else first | second
    np.testing.assert_array_equal(array("extract", "mask").numpy(), expected)
    assert 0.05 < expected.mean() < 0.95


@pytest.mark.few(1)
@pytest.mark.parametrize(("keep_kv", "count"), [("all", 4), ("none", 0), (2, 2), (9, 4)])
def test_as_many_keys_and_values_as_asked(project: Path, keep_kv: Any, count: int) -> None:
    everything = {name: array("kv", name) for name in read_stage("kv", "r00").names}
    change(extract={"keep_kv": keep_kv})
    run("extract")
    data = read_stage("kv", "r00")
    assert data.count == count
    assert data.names == (sorted(f"{name}/{part}" for name in SELF_ATTENTION for part in "KV") if count else [])
    for name in data.names:
        assert data.array(name).metadata.dimension_names == (
            "reference",
            "fused_step",
            "half",
            "head",
            "token",
            "channel",
        )
        assert torch.equal(array("kv", name), everything[name][:count])


def test_keys_and_values_are_what_the_modules_compute(project: Path) -> None:
    """Caught at the linear layers while the stored states go through the U-Net again."""
    references = read_stage("extract", "r00").table("references")
    policy = policy_of("init")
    caught: dict[str, torch.Tensor] = {}
    for name, path in SELF_ATTENTION.items():
        for part, layer in (("K", "to_k"), ("V", "to_v")):
            module = policy.unet.get_submodule(f"{path}.transformer_blocks.0.attn1.{layer}")
            module.register_forward_hook(lambda _, __, out, key=f"{name}/{part}": caught.__setitem__(key, out))
    for row, (image, prompt) in enumerate(zip(references.image, references.prompt, strict=True)):
        for k in range(FUSED):
            i = T - FUSED + k
            with torch.no_grad():
                policy.predict_noise(array("sample", "x")[image : image + 1, i], i, policy.embed([prompt]))
            for name, out in caught.items():
                heads = out.unflatten(-1, (2, -1)).transpose(1, 2)  # (half, head, token, channel)
                torch.testing.assert_close(array("kv", name)[row, k], heads, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_same_bytes_again(project: Path, finished: Path) -> None:
    forget("extract"), forget("kv")
    run("extract")
    for stage in ("extract", "kv"):
        assert content(Path("runs/r00", stage)) == content(finished / "runs/r00" / stage)


@pytest.mark.slow
def test_absolute_thresholds_that_are_not_there(project: Path) -> None:
    prompts = yaml.safe_load(Path("prompts.yaml").read_text())
    del prompts["train"][1]["thresholds"]
    Path("prompts.yaml").write_text(yaml.safe_dump(prompts))
    change(extract={"threshold": "absolute"})
    for stage in ("sample", "score"):  # the prompt file is an input of theirs
        run(stage)
    with pytest.raises(MaskError, match="prompts: 'a blue and dotted square' has no thresholds"):
        run("extract")


def test_an_unknown_round_and_a_missing_stage(project: Path) -> None:
    with pytest.raises(MissingStage, match="extract: its input 'sample' is missing: there is no runs/r07/sample"):
        run("extract", "r07")
    change(rounds={"r01": {"prev": "init"}})
    with pytest.raises(ParamsError, match="params.yaml has no round 'r00', only r01"):
        run("extract")
    forget("score")
    with pytest.raises(MissingStage, match="'dvc repro -s score@r00'"):
        run("extract")
