"""fuse: Eq. (5) step by step, from the base's own state and noise; stored and recomputed references agree."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from steps import T, array, change, content, forget, policy_of, run, scheduler

from dfusion_core.diffusion.noise import trajectory_noises
from dfusion_core.errors import BadNumber, ParamsError
from dfusion_core.models.policy import Policy
from dfusion_core.store import read_stage
from dfusion_core.store.reading import StageData
from dfusion_core.store.schema import ARRAYS

SHARED = 1  # steps before fusion: t = 4
BATCH_TOLERANCE = 1e-4  # of a latent of size 7
ATTENTION = {  # path and how its grid follows from the 4x4 mask
    "mid_block.attentions.0": lambda M: M[::2, ::2],
    "up_blocks.1.attentions.0": lambda M: M,
    "up_blocks.1.attentions.1": lambda M: M,
    "up_blocks.2.attentions.0": lambda M: M.repeat_interleave(2, 0).repeat_interleave(2, 1),
    "up_blocks.2.attentions.1": lambda M: M.repeat_interleave(2, 0).repeat_interleave(2, 1),
}


def test_arrays_are_those_of_the_schema(project: Path) -> None:
    sizes = {"pair": 4, "state": T + 1, "channel": 4, "height": 8, "width": 8, "row": 16, "column": 16, "rgb": 3}
    data = read_stage("fuse", "r00")
    assert data.names == sorted(one.name for one in ARRAYS["fuse"])
    for declared in ARRAYS["fuse"]:
        stored = data.array(declared.name)
        assert stored.metadata.dimension_names == declared.dims
        assert stored.shape == tuple(sizes[dim] for dim in declared.dims)
        assert stored.dtype == declared.dtype


def test_a_target_is_its_base_until_fusion_starts(project: Path) -> None:
    pairs = read_stage("extract", "r00").table("pairs")
    target, base = array("fuse", "x"), array("sample", "x")[pairs.base_image]
    assert torch.equal(target[:, : SHARED + 1], base[:, : SHARED + 1])
    assert ((target[:, SHARED + 1 :] - base[:, SHARED + 1 :]).abs().amax(dim=(2, 3, 4)) > 0.1).all()


def test_each_step_is_equation_5(project: Path) -> None:
    """Written again with forward hooks on the linear layers: one pair and one image at a time."""
    pairs = read_stage("extract", "r00").table("pairs")
    policy, their = policy_of("init"), scheduler()
    kept: dict[str, torch.Tensor] = {}
    now: dict[str, torch.Tensor | None] = {"M": None}

    def hook(path: str, name: str):  # type: ignore[no-untyped-def]
        def edit(_module: object, _inputs: object, out: torch.Tensor) -> torch.Tensor | None:
            if (M := now["M"]) is None:  # the reference's forward
                kept[name] = out
                return None
            m = ATTENTION[path](M).flatten()[None, :, None]
            return torch.where(m, kept[name], out)

        return edit

    for path in ATTENTION:
        for layer in ("to_k", "to_v"):
            name = f"{path}.transformer_blocks.0.attn1.{layer}"
            policy.unet.get_submodule(name).register_forward_hook(hook(path, name))
    x, target, mask = array("sample", "x"), array("fuse", "x"), array("extract", "mask")
    for pair in pairs.itertuples():
        text = policy.embed([pair.prompt])
        _, z = trajectory_noises([pair.base_seed], policy.latent_shape, T)
        for i in range(SHARED, T):
            with torch.no_grad():
                now["M"] = None
                policy.predict_noise(x[pair.reference_image, i][None], i, text)
                now["M"] = mask[pair.reference, i]
                eps = policy.predict_noise(target[pair.pair, i][None], i, text)
            expected = their.step(eps, their.timesteps[i], target[pair.pair, i][None], eta=1.0, variance_noise=z[:, i])
            torch.testing.assert_close(target[pair.pair, i + 1], expected.prev_sample[0], rtol=0, atol=BATCH_TOLERANCE)


@pytest.mark.few(1)
@pytest.mark.parametrize("keep_kv", ["none", 2])
def test_stored_and_recomputed_references_agree(project: Path, keep_kv: str | int) -> None:
    """With 2, a batch whose references are not all stored recomputes them."""
    before = array("fuse", "x")
    change(extract={"keep_kv": keep_kv}, fuse={"batch_size": 2})
    run("extract")
    run("fuse")
    torch.testing.assert_close(array("fuse", "x"), before, rtol=0, atol=BATCH_TOLERANCE)


def test_an_empty_mask_gives_the_base(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """M = 0 at every step: nothing of the reference comes through."""
    read = StageData.tensor

    def no_mask(data: StageData, name: str, which: Iterable[int]) -> torch.Tensor:
        values = read(data, name, which)
        return torch.zeros_like(values) if name == "mask" else values

    monkeypatch.setattr(StageData, "tensor", no_mask)
    forget("fuse")
    run("fuse")
    base = array("sample", "x")[read_stage("extract", "r00").table("pairs").base_image]
    torch.testing.assert_close(array("fuse", "x"), base, rtol=0, atol=BATCH_TOLERANCE)


@pytest.mark.few(1)
@pytest.mark.parametrize("how", ["no item reaches its threshold", "items cancel out"])
def test_targets_of_empty_masks_are_their_bases(project: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Bit for bit; nothing stops, the reference wins, and it is said once with the right advice."""
    all_cancel = {"threshold": "relative", "relative_threshold": 1e-9}
    change(extract=all_cancel if "cancel" in how else {"relative_threshold": 50.0})
    for stage in ("extract", "fuse", "adopt"):
        run(stage)
    extracted, adopted = read_stage("extract", "r00"), read_stage("adopt", "r00")
    pairs, training = extracted.table("pairs"), adopted.table("training").set_index("pair")
    empty = extracted.table("references").empty_mask[pairs.reference].to_numpy()
    assert empty.any()
    assert torch.equal(array("fuse", "x")[empty], array("sample", "x")[pairs.base_image[empty]])
    assert torch.equal(array("fuse", "picture")[empty], array("sample", "picture")[pairs.base_image[empty]])
    assert (training.winner_stage[pairs.pair[empty]] == "sample").all()
    assert not adopted.table("targets").adopted[empty].any()
    assert json.loads((adopted.folder / "figures.json").read_text())["empty_masks"] == empty.sum()
    said = [line for line in capsys.readouterr().out.splitlines() if "empty at every fused step" in line]
    assert len(said) == 1 and ("extract.merge" if "cancel" in how else "extract.relative_threshold") in said[0]


@pytest.mark.slow
def test_a_later_and_shorter_window(project: Path) -> None:
    """t = 2 only: until then the base, after it the plain policy."""
    change(fuse={"first_t": 2, "last_t": 2})
    run("extract")
    run("fuse")
    pairs = read_stage("extract", "r00").table("pairs")
    target, base = array("fuse", "x"), array("sample", "x")[pairs.base_image]
    assert torch.equal(target[:, :3], base[:, :3])
    policy, their = policy_of("init"), scheduler()
    _, z = trajectory_noises(pairs.base_seed.tolist(), policy.latent_shape, T)
    with torch.no_grad():
        eps = policy.predict_noise(target[:, 3], 3, policy.embed(pairs.prompt.tolist()))
    expected = their.step(eps, their.timesteps[3], target[:, 3], eta=1.0, variance_noise=z[:, 3]).prev_sample
    torch.testing.assert_close(target[:, 4], expected, rtol=0, atol=BATCH_TOLERANCE)


def test_pictures_are_the_decoded_last_states(project: Path) -> None:
    pictures = policy_of("init").decode(array("fuse", "x")[:, -1])
    assert (array("fuse", "picture").int() - pictures.int()).abs().max() <= 1


@pytest.mark.slow
def test_the_same_bytes_again_and_the_batch_size(project: Path, finished: Path) -> None:
    forget("fuse")
    run("fuse")
    assert content(Path("runs/r00/fuse")) == content(finished / "runs/r00/fuse")
    before = array("fuse", "x")
    change(fuse={"batch_size": 3})
    run("fuse")
    torch.testing.assert_close(array("fuse", "x"), before, rtol=0, atol=BATCH_TOLERANCE)


def test_naive_pairs_are_not_fused(project: Path) -> None:
    change(pairs="naive")
    run("fuse")
    data = read_stage("fuse", "r00")
    assert data.count == 0 and data.names == []


@pytest.mark.slow
def test_a_nan_is_located_and_nothing_is_published(
    project: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change(fuse={"batch_size": 2})
    run("fuse")
    whole = content(Path("runs/r00/fuse"))
    forget("fuse")
    pairs = read_stage("extract", "r00").table("pairs")
    predict, calls = Policy.predict_noise, iter(range(99))

    def broken(self: Policy, *arguments: torch.Tensor) -> torch.Tensor:
        eps = predict(self, *arguments)
        if next(calls) == 4:  # three steps a batch: the second batch's second step
            eps[1, 0, 0, 0] = float("inf")
        return eps

    with monkeypatch.context() as patch, pytest.raises(BadNumber) as caught:
        patch.setattr(Policy, "predict_noise", broken)
        run("fuse")
    assert caught.value.message == (
        f"the fused latent of pair 3 ('a blue and dotted square', base seed {pairs.base_seed[3]}) "
        "is NaN or infinite at t = 2."
    )
    assert not Path("runs/r00/fuse").exists()
    capsys.readouterr()
    run("fuse")
    assert "fuse r00: continues; 2 of 4 rows were finished before." in capsys.readouterr().out
    assert content(Path("runs/r00/fuse")) == whole


def test_it_runs_with_its_declared_inputs_alone(project: Path, finished: Path) -> None:
    """On a node that has only the outputs that dvc.yaml lists as dependencies of fuse."""
    for stage in ("score", "fuse", "adopt", "train", "evaluate"):
        forget(stage)
    run("fuse")
    assert content(Path("runs/r00/fuse")) == content(finished / "runs/r00/fuse")


def test_an_unknown_round(project: Path) -> None:
    with pytest.raises(ParamsError, match="params.yaml has no round 'r02', only r00, r01"):
        run("fuse", "r02")
