"""train: the gradient of Eq. (6) by a loop over single terms, exact resume, and the checks of the first ratio."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from steps import T, array, change, content, forget, mean_and_std, policy_of, run

import stages.train
from dfusion_core.errors import BadNumber, MissingStage, ParamsError, RatioError, RewardError
from dfusion_core.models.lora import trainable
from dfusion_core.models.policy import Policy
from dfusion_core.params import load_params
from dfusion_core.store import read_stage
from dfusion_core.testing import tiny_clip
from dfusion_core.training import trainer as training
from dfusion_core.training.objectives import row_loss
from dfusion_core.training.trainer import Trainer, gradient_scale
from dfusion_core.training.trajectories import load_pairs

BETA = 0.1
FOLDER = Path("runs/r00/train")
Term = tuple[str, torch.Tensor, torch.Tensor, int]  # prompt, winner, loser, step index


def adapter(round: str = "r00") -> dict[str, np.ndarray]:
    return load_file(Path("runs", round, "train/adapter/pytorch_lora_weights.safetensors"))


def updates(round: str = "r00") -> pd.DataFrame:
    return read_stage("train", round).table("updates")


# --- Eq. (6), one term at a time ---


def terms() -> list[Term]:
    """Every (pair, step) at which winner and loser differ: an adopted target shares the first step with its base."""
    train = load_params("train").train
    first = train.first_t or T
    x, fused = array("sample", "x"), array("fuse", "x")
    found: list[Term] = []
    for row in read_stage("adopt", "r00").table("training").itertuples():
        winner = fused[row.winner_row] if row.winner_stage == "fuse" else x[row.winner_row]
        loser = x[row.loser_row]
        steps = [i for i in range(T) if not torch.equal(winner[i : i + 2], loser[i : i + 2])]
        assert steps == list(range(1 if row.winner_stage == "fuse" else 0, T))
        found += [(str(row.prompt), winner, loser, i) for i in steps if first >= T - i >= train.last_t]
    return found


def log_prob(policy: Policy, x: torch.Tensor, i: int, prompt: str) -> torch.Tensor:
    eps = policy.predict_noise(x[i][None], i, policy.embed([prompt]))
    mean, std = mean_and_std(policy, x[i][None], eps, i)
    return (-((x[i + 1] - mean) ** 2) / (2 * std**2) - math.log(std * math.sqrt(2 * math.pi))).mean()


def both(policy: Policy, term: Term) -> tuple[torch.Tensor, torch.Tensor]:
    prompt, winner, loser, i = term
    return log_prob(policy, winner, i, prompt), log_prob(policy, loser, i, prompt)


def naive_gradient(policy: Policy, old: list[tuple[torch.Tensor, torch.Tensor]], form: str) -> torch.Tensor:
    """Of the mean loss over all terms, by one backward pass for each of them."""
    every = terms()
    for term, (old_w, old_l) in zip(every, old, strict=True):
        w, l = both(policy, term)  # noqa: E741
        ratio = (w - old_w).exp() - (l - old_l).exp() if form == "ratio" else (w - old_w) - (l - old_l)
        (torch.log1p(torch.exp(-BETA * ratio)) / len(every)).backward()
    return flat_gradient(policy)


def flat_gradient(policy: Policy) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in trainable(policy.unet).values() if p.grad is not None])


def trainer_of(policy: Policy) -> Trainer:
    """As the stage makes it."""
    params = load_params("train", "seed")
    table = read_stage("adopt", "r00").table("training")
    pairs = load_pairs(table, {name: read_stage(name, "r00") for name in ("sample", "fuse")})
    return Trainer(policy, pairs, params.train, seed=params.seed, round="r00")


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("form", "first_t", "last_t", "fallback", "count"),
    [
        ("ratio", None, 1, "reference", 14),
        ("log_ratio", None, 1, "reference", 14),
        ("ratio", None, 2, "reference", 10),
        ("ratio", 2, 1, "reference", 8),
        ("ratio", None, 1, "drop", 6),
    ],
)
def test_the_gradient_is_that_of_a_naive_loop(
    project: Path, form: str, first_t: int | None, last_t: int, fallback: str, count: int
) -> None:
    """At both updates of the round: at ratio 1, and after a step away from it."""
    change(
        train={"dpo_form": form, "clip_norm": 1e6, "first_t": first_t, "last_t": last_t}, adopt={"fallback": fallback}
    )
    run("adopt")
    assert len(terms()) == count  # of four pairs, two of them with targets, over four steps
    trainer, naive = trainer_of(policy_of("init", train=True)), policy_of("init", train=True)
    with torch.no_grad():
        old = [both(naive, term) for term in terms()]
    found: list[torch.Tensor] = []
    step = trainer.optimizer.step

    def caught() -> None:
        found.append(flat_gradient(trainer.policy))
        step()

    trainer.optimizer.step = caught  # type: ignore[method-assign,assignment]
    for update in range(2):
        expected = naive_gradient(naive, old, form)
        trainer.update()
        assert float((found[update] - expected).norm() / expected.norm()) < 1e-4
        with torch.no_grad():  # the naive policy takes the same step
            for name, parameter in trainable(naive.unet).items():
                parameter.copy_(trainer.parameters[name])
                parameter.grad = None
    assert (found[0] - found[1]).norm() > 0.01 * found[0].norm()


# --- what a round of training does ---


def test_the_adapter_changes_and_is_all_that_changes(project: Path) -> None:
    before, after = adapter("init"), adapter()
    assert before.keys() == after.keys()
    assert all((before[name] != after[name]).any() for name in before if name.endswith("up.weight"))
    assert read_stage("train", "r00").manifest["files"].keys() >= {"optimizer.safetensors", "updates.csv"}


def test_the_first_update_starts_at_ratio_1(project: Path) -> None:
    table = updates()
    assert table["update"].tolist() == [0, 1]
    assert table.loss[0] == pytest.approx(math.log(2), abs=1e-6)
    for column in ("margin", "winner_drift", "loser_drift", "largest_log_ratio"):
        assert table[column][0] == 0
    assert table.implicit_accuracy[0] == 0.5
    assert table.loss[1] < math.log(2) and table.largest_log_ratio[1] > 0
    assert (table.gradient_norm > 0).all()
    for matrix in "AB":
        assert table[f"epsilon_share_{matrix}"].between(0, 1).all()


def test_timesteps_add_up_to_the_update(project: Path) -> None:
    """Means by t, weighted by the terms at that t, are the means of the update; the first step is at ratio 1."""
    table, by_t = updates(), read_stage("train", "r00").table("timesteps")
    terms_at = pd.Series([T - i for *_, i in terms()]).value_counts()
    for row in table.itertuples():
        part = by_t[by_t["update"] == row.update].set_index("t")
        assert sorted(part.index) == sorted(terms_at.index)
        for column in ("winner_drift", "loser_drift"):
            mean = (part[column] * terms_at).sum() / terms_at.sum()
            assert mean == pytest.approx(getattr(row, column), rel=1e-3, abs=1e-9)
        assert part.largest_log_ratio.max() == pytest.approx(row.largest_log_ratio, rel=1e-6)
    assert (by_t[by_t["update"] == 0].largest_log_ratio == 0).all()


def test_moments_are_carried_to_the_next_round(project: Path) -> None:
    """Two updates a round: AdamW has counted two after the first round and four after the second."""
    for round, count in (("r00", 2), ("r01", 4)):
        moments = load_file(Path("runs", round, "train/optimizer.safetensors"))
        steps = [value for name, value in moments.items() if name.startswith("step/")]
        assert len(steps) == len(adapter()) and all(value == count for value in steps)


def test_the_next_round_needs_the_moments(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them the second round ends at another adapter: they are used and not only copied."""
    before = adapter("r01")
    monkeypatch.setattr("dfusion_core.training.trainer.load_optimizer", lambda *_: None)
    forget("train", "r01")
    run("train", "r01")
    assert any((before[name] != value).any() for name, value in adapter("r01").items())


@pytest.mark.few(1)
@pytest.mark.parametrize("micro_batch", [5, 14, 64])
def test_the_micro_batch_does_not_matter(project: Path, micro_batch: int) -> None:
    """Fourteen terms in parts of 4 (two padded rows), 5 (one), 14 (none) or 64 (fifty)."""
    smooth = {"epsilon": 1e-3}  # else rounding decides the sign of AdamW's first step where the gradient is nearly 0
    change(train={**smooth, "micro_batch": 4})
    run("train")
    start, before, table = adapter("init"), adapter(), updates()
    change(train={**smooth, "micro_batch": micro_batch})
    run("train")
    for name, value in adapter().items():
        last_bit = np.linalg.norm(np.spacing(np.abs(before[name])))  # of every weight: the update itself is that small
        assert np.linalg.norm(value - before[name]) < 1e-3 * np.linalg.norm(before[name] - start[name]) + last_bit
    pd.testing.assert_frame_equal(updates(), table, rtol=1e-3, atol=1e-5)


def test_several_updates_in_an_epoch(project: Path) -> None:
    """Two groups of two pairs, twice. Old log-probs are those of before the round, so only the first starts at 1."""
    change(train={"pairs_per_update": 2})
    run("train")
    table = updates()
    assert len(table) == 4
    assert (table.largest_log_ratio > 0).tolist() == [False, True, True, True]


def test_naive_pairs_train_on_every_step(project: Path) -> None:
    change(pairs="naive")
    for stage in ("fuse", "adopt", "train"):
        run(stage)
    assert updates().loss[0] == pytest.approx(math.log(2), abs=1e-6)


def test_curves_are_there_for_dvclive(project: Path) -> None:
    loss = pd.read_csv(FOLDER / "live/plots/metrics/loss.tsv", sep="\t")
    assert loss.step.tolist() == [0, 1]
    np.testing.assert_allclose(loss.loss, updates().loss)


# --- stopping, going on, refusing ---


def test_the_same_bytes_again(project: Path, finished: Path) -> None:
    forget("train")
    run("train")
    assert content(FOLDER) == content(finished / FOLDER)


@pytest.mark.parametrize("stop_after", [0, 1])
def test_stopped_and_continued_gives_the_same_bytes(
    project: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stop_after: int
) -> None:
    forget("train")
    update = Trainer.update

    def stopping(trainer: Trainer) -> None:
        if trainer.done == stop_after:
            raise KeyboardInterrupt
        update(trainer)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "update", stopping)
        run("train")
    assert not FOLDER.exists()
    capsys.readouterr()
    run("train")
    said = capsys.readouterr().out
    assert ("train r00: continues; 1 of 2 updates were done before." in said) == (stop_after == 1)
    assert content(FOLDER) == content(finished / FOLDER)


def test_another_adapter_than_the_one_that_sampled(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Path("runs/r00/train/adapter").rename("wrong")
    forget("train")
    monkeypatch.setattr(stages.train, "adapter", lambda _round: wrong)
    with pytest.raises(RatioError) as caught:
        run("train")
    assert caught.value.message.startswith("train: log_prob of the first batch differs from the stored one by ")
    assert caught.value.message.endswith(" (tolerance 0.001).")
    assert "'dvc repro -f -s sample@r00'" in caught.value.hint
    assert not FOLDER.exists()


def test_two_passes_that_disagree(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget("train")
    compute, noise = Trainer.evaluate, iter([0.0, 1e-4])

    def unsteady(self: Trainer, *rows: Any) -> dict[str, torch.Tensor]:
        values = compute(self, *rows)
        return values | {"log_prob": values["log_prob"] + next(noise)}

    monkeypatch.setattr(Trainer, "evaluate", unsteady)
    with pytest.raises(RatioError, match=r"the same log_prob came out 0.0001 apart in two passes"):
        run("train")


def test_an_unknown_round_and_a_missing_stage(project: Path) -> None:
    with pytest.raises(ParamsError, match="params.yaml has no round 'r02', only r00, r01"):
        run("train", "r02")
    forget("adopt")
    with pytest.raises(MissingStage, match="train: its input 'adopt' is missing"):
        run("train")


@pytest.fixture(autouse=True)
def _beta_is_the_default() -> Iterator[None]:
    """The naive loop spells it out."""
    from dfusion_core.params.sections import Train

    assert Train().dpo_beta == BETA
    yield


SIX = ("sample", "score", "extract", "fuse", "adopt", "train")


@pytest.mark.slow
def test_gradients_in_fp16_are_those_in_fp32(project: Path) -> None:
    """Scaled on their way and back again; the loss of DPO's first update has the gradient that fp32 gives."""
    assert gradient_scale(torch.float16, 16_384 * 6_400) == 2.0**22
    assert gradient_scale(torch.bfloat16, 16_384 * 6_400) == gradient_scale(torch.float32, 1) == 1.0
    norms = {}
    for dtype in ("fp32", "fp16"):
        change(model={"dtype": dtype})
        for stage, round in (("init", "init"), *((stage, "r00") for stage in SIX)):
            run(stage, round)
        norms[dtype] = read_stage("train", "r00").table("updates").gradient_norm[0]
    assert norms["fp16"] == pytest.approx(norms["fp32"], rel=0.1)


def test_a_gradient_that_is_no_number_stops_the_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the optimizer sees it; what was trained before is in scratch."""
    forget("train")
    monkeypatch.setattr(training, "row_loss", lambda *args: row_loss(*args) * float("nan"))
    with pytest.raises(BadNumber, match="the gradient of .*lora_A.* is NaN or infinite in update 0 of r00"):
        run("train")
    monkeypatch.setattr(training, "row_loss", row_loss)
    run("train")


@pytest.mark.slow
def test_a_model_in_16_bits_trains_in_fp32(project: Path) -> None:
    """The frozen weights in bf16, as far as a CPU has them; the adapter that is written keeps small steps."""
    change(model={"dtype": "bf16"}, train={"learning_rate": 1.0e-6})
    for stage, round in (("init", "init"), *((stage, "r00") for stage in SIX)):
        run(stage, round)
    before, after = (
        load_file(f"runs/{name}/train/adapter/pytorch_lora_weights.safetensors") for name in ("init", "r00")
    )
    moved = [float(np.abs(after[name] - before[name]).max()) for name in before if "lora_A" in name]
    updates = len(read_stage("train", "r00").table("updates"))
    assert 0 < max(moved) < 2 * updates * 1.0e-6  # lost in bf16, where weights of 0.1 are 4e-4 apart


# --- the history of rewards ---


@pytest.mark.slow
def test_scores_of_two_rewards_are_no_history(project: Path) -> None:
    """r00 was scored by other weights than r01: its scores cannot normalise those of r01."""
    tiny_clip(Path("clip"), seed=1)
    for stage in ("score", "extract", "fuse", "adopt"):
        run(stage, "r01")
    with pytest.raises(RewardError, match="score@r00 and score@r01 .*dvc repro -f -s score@r00"):
        run("train", "r01")
