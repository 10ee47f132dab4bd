"""adopt: Eq. (7) on rewards computed here, and the winner that follows from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from steps import change, content, forget, run

from dfusion_core.adoption.tables import without_ties
from dfusion_core.errors import DFusionError, MissingStage
from dfusion_core.models.device import pick_device
from dfusion_core.params import load_params
from dfusion_core.rewards.scoring import load_reward
from dfusion_core.store import read_stage
from dfusion_core.store.tables import TRAINING

COARSE = '''
import torch

class Bright:
    """1 for the brightest picture of a batch, else 0."""

    def __init__(self, device): ...

    def __call__(self, pictures, prompts):
        mean = pictures.float().mean(dim=(1, 2, 3))
        return (mean == mean.max()).float()

    def identity(self):
        return "bright"
'''


def training() -> pd.DataFrame:
    return read_stage("adopt", "r00").table("training")


def targets() -> pd.DataFrame:
    """The pairs with the rewards of their targets, and whether these were adopted."""
    pairs = read_stage("extract", "r00").table("pairs")
    return pairs.assign(**read_stage("adopt", "r00").table("targets")[["target_reward", "adopted"]])


def target_rewards() -> np.ndarray:
    reward = load_reward(load_params("reward").reward, pick_device("cpu"))
    prompts = read_stage("extract", "r00").table("pairs").prompt.tolist()
    return reward(read_stage("fuse", "r00").array("picture")[:], prompts).reward


@pytest.mark.parametrize("threshold", [0.0, 0.2, 1.0])
def test_equation_7(project: Path, threshold: float) -> None:
    """R(target) - R(base) >= thr (R(reference) - R(base)); the winner is the target there, else the reference."""
    change(adopt={"threshold": threshold})
    run("adopt")
    table, R_a = targets(), target_rewards()
    np.testing.assert_allclose(table.target_reward, R_a, rtol=0, atol=1e-6)
    for row, pair in zip(table.itertuples(), training().itertuples(), strict=True):
        keeps = row.target_reward - row.base_reward >= threshold * (row.reference_reward - row.base_reward)
        assert row.adopted == keeps
        winner = (
            ("fuse", row.pair, row.target_reward) if keeps else ("sample", row.reference_image, row.reference_reward)
        )
        assert (pair.winner_stage, pair.winner_row) == winner[:2]
        assert pair.winner_reward == pytest.approx(winner[2], abs=1e-7)
        assert (pair.loser_stage, pair.loser_row, pair.loser_reward) == ("sample", row.base_image, row.base_reward)


def test_some_are_adopted_and_some_are_not(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else the tests of training would not see both kinds of pairs."""
    forget("adopt")
    run("adopt")
    assert sorted(targets().adopted) == [False, False, True, True]
    assert capsys.readouterr().out == "adopt r00: 2 of 4 targets adopted.\n"


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", ["dfusion", "naive", "same_noise", "inversion"])
def test_all_kinds_of_pairs_have_the_same_columns(project: Path, kind: str) -> None:
    change(pairs=kind)
    run("fuse")
    run("adopt")
    assert tuple(training().columns) == TRAINING
    assert (Path("runs/r00/adopt/targets.csv").exists()) == (kind in ("dfusion", "inversion"))


def test_the_figures_of_the_pairs(project: Path) -> None:
    """Rewards from the tables, distances from the pictures by another formula; the same file for DVC's metrics."""
    table, pairs = targets(), read_stage("extract", "r00").table("pairs")
    sampled = read_stage("sample", "r00").array("picture")[:].astype(float) / 255
    target = read_stage("fuse", "r00").array("picture")[:].astype(float) / 255
    mask = read_stage("extract", "r00").array("mask")[:].astype(bool)[pairs.reference]
    base = sampled[pairs.base_image]
    figures = json.loads(Path("results/pairs/r00.json").read_text())
    assert figures == json.loads(Path("runs/r00/adopt/figures.json").read_text())
    assert (figures["pairs"], figures["adopted"], figures["adopted_share"]) == (4, 2, 0.5)
    assert figures["target_gain"] == pytest.approx((table.target_reward - table.base_reward).mean())
    assert figures["reference_lead"] == pytest.approx((table.reference_reward - table.base_reward).mean())
    scores = read_stage("score", "r00").table("scores")
    prompt_mean = scores.groupby("prompt_id").reward.mean()[pairs.prompt_id].to_numpy()
    assert figures["fresh_gain"] == pytest.approx((prompt_mean - table.base_reward).mean())
    assert 0 < figures["reference_similarity"] <= 1 and 0 < figures["target_similarity"] <= 1
    assert figures["mask_coverage"] == pytest.approx(mask.mean())
    assert figures["target_distance"] == pytest.approx(np.abs(target - base).mean(), rel=1e-5)
    assert figures["reference_distance"] == pytest.approx(
        np.abs(sampled[pairs.reference_image] - base).mean(), rel=1e-5
    )
    outside = [
        np.abs(target[p, y, x] - base[p, y, x]).mean()
        for p in range(4)
        for y in range(16)
        for x in range(16)
        if not mask[p, :, y // 4, x // 4].any()
    ]
    assert figures["target_distance_outside"] == (pytest.approx(np.mean(outside), rel=1e-5) if outside else None)


def test_every_target_is_kept_if_adoption_is_off(project: Path) -> None:
    change(adopt={"enabled": False, "threshold": 1.0})
    run("adopt")
    assert targets().adopted.all()
    np.testing.assert_allclose(training().winner_reward, targets().target_reward, rtol=0, atol=1e-7)


def test_pairs_without_a_target_may_be_dropped(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of four stay, with the numbers of their pairs."""
    before = training()
    change(adopt={"fallback": "drop"})
    run("adopt")
    kept = before[targets().adopted].reset_index(drop=True)
    pd.testing.assert_frame_equal(training(), kept)
    assert "adopt r00: 2 of 4 targets adopted." in capsys.readouterr().out


def test_nothing_is_left_to_train_on(project: Path) -> None:
    forget("adopt")
    change(adopt={"fallback": "drop", "threshold": 1.0})
    with pytest.raises(DFusionError) as caught:
        run("adopt")
    assert str(caught.value) == (
        "adopt: none of 4 targets is good enough, and adopt.fallback is drop: there is nothing to train on. "
        "Lower adopt.threshold (now 1.0), or set adopt.fallback to reference."
    )
    assert not Path("runs/r00/adopt").exists()


def test_naive_pairs_have_their_reference_as_winner(project: Path) -> None:
    change(pairs="naive")
    run("fuse")
    run("adopt")
    table, pairs = training(), read_stage("extract", "r00").table("pairs")
    assert (table.winner_stage == "sample").all()
    assert table.winner_row.tolist() == pairs.reference_image.tolist()
    assert table.winner_reward.tolist() == pairs.reference_reward.tolist()


TIED = pd.DataFrame({"winner_reward": [0.5, 0.5, 1.0], "loser_reward": [0.5, 0.25, 1.0]})


def test_ties_are_left_out() -> None:
    assert without_ties(TIED).winner_reward.tolist() == [0.5]
    with pytest.raises(DFusionError, match=r"adopt: .* all 2 pairs .* reward\.weight"):
        without_ties(TIED.iloc[[0, 2]])


def test_ties_are_counted(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A reward of two values: of naive pairs some tie. They are not trained on."""
    (Path.cwd() / "coarse.py").write_text(COARSE)
    change(pairs="naive", reward={"weight": 0.0, "plugins": {"coarse:Bright": 1.0}})
    for stage in ("score", "extract", "fuse", "adopt"):
        run(stage)
    pairs, figures = read_stage("extract", "r00").table("pairs"), json.loads(Path("results/pairs/r00.json").read_text())
    ties = int((pairs.reference_reward == pairs.base_reward).sum())
    assert figures["ties"] == ties > 0
    assert len(training()) == len(pairs) - ties
    assert f"{ties} of {len(pairs)} pairs have equal rewards" in capsys.readouterr().out


def test_the_same_bytes_again(project: Path, finished: Path) -> None:
    forget("adopt")
    run("adopt")
    assert content(Path("runs/r00/adopt")) == content(finished / "runs/r00/adopt")


def test_a_threshold_above_one_is_a_warning(project: Path) -> None:
    change(adopt={"threshold": 1.5})
    with pytest.warns(UserWarning, match=r"adopt.threshold is 1.5; the paper's range is 0 to 1"):
        run("adopt")


def test_nothing_was_fused(project: Path) -> None:
    forget("fuse")
    with pytest.raises(MissingStage, match="adopt: its input 'fuse' is missing: .* 'dvc repro -s fuse@r00'"):
        run("adopt")
