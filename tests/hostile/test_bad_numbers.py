"""A NaN or an infinity, wherever it comes from, stops the stage that meets it, with the place; nothing is lost by it.

Each case breaks one number in memory or in a published file (whose manifest is made to fit), runs the real stage, and
then runs it again without the fault: what comes out has the bytes of a run that never failed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.numpy import load_file, save_file
from steps import change, content, forget, reseal, run

from dfusion_core.attention import control as attention
from dfusion_core.attention.fusion import resize
from dfusion_core.diffusion import ddim, denoise
from dfusion_core.errors import BadNumber, DFusionError, ModelError, NotFinite, StoreError
from dfusion_core.extraction import keys_values as extraction
from dfusion_core.rewards.scoring import Clip
from dfusion_core.store import read_stage
from dfusion_core.store.reading import StageData
from dfusion_core.training import trajectories

Patch = pytest.MonkeyPatch
NAN, INF = float("nan"), float("inf")
SEED = r"seed \d{15,}"


def at_call(number: int, function: Callable[..., Any], spoil: Callable[[Any], None]) -> Callable[..., Any]:
    """``function``, with the result of its n-th call spoilt."""
    calls = iter(range(10**6))

    def broken(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        if next(calls) == number:
            spoil(result)
        return result

    return broken


def decoded(patch: Patch) -> None:
    def spoil(result: Any) -> None:
        result.sample[1, 0, 3, 3] = NAN

    patch.setattr(AutoencoderKL, "decode", at_call(0, AutoencoderKL.decode, spoil))


def embedded(patch: Patch) -> None:
    def spoil(result: torch.Tensor) -> None:
        result[2, 0] = NAN

    patch.setattr(Clip, "embed_pictures", at_call(0, Clip.embed_pictures, spoil))


def cross_map(patch: Patch) -> None:
    def spoil(result: torch.Tensor) -> None:
        result[1, 0, 2, 2] = INF

    patch.setattr(denoise, "collect_maps", at_call(6, denoise.collect_maps, spoil))  # four steps a batch


def value_of_a_reference(patch: Patch) -> None:
    """In the U-Net's self-attention while a reference is replayed: V of up_2.0, at the second of three steps."""
    hook = attention.KVTap._hook

    def broken(tap: Any, name: str) -> Any:
        def spoil(result: tuple[torch.Tensor, torch.Tensor]) -> None:
            result[1][0, 0, 3, 0] = NAN

        return at_call(1, hook(tap, name), spoil) if name == "up_2.0" else hook(tap, name)

    patch.setattr(attention.KVTap, "_hook", broken)


def log_prob(update: int) -> Callable[[Patch], None]:
    """In the U-Net's answer for one row of training. Two micro-batches and a look ahead precede the second update."""

    def broken(patch: Patch) -> None:
        def spoil(result: torch.Tensor) -> None:
            with torch.no_grad():
                result[-1] = NAN

        patch.setattr(
            "dfusion_core.models.policy.steps.log_prob", at_call(0 if update == 0 else 5, ddim.log_prob, spoil)
        )

    return broken


def weight(patch: Patch) -> None:
    """The optimizer leaves a weight that is no number behind."""
    step = torch.optim.AdamW.step

    def broken(optimizer: torch.optim.AdamW) -> None:
        step(optimizer)
        with torch.no_grad():
            optimizer.param_groups[0]["params"][1].view(-1)[0] = INF

    patch.setattr(torch.optim.AdamW, "step", broken)


IN_MEMORY: dict[str, tuple[str, Callable[[Patch], None], str]] = {
    "sample: picture": ("sample", decoded, rf"the decoded picture of image 1 \('a heart.*', {SEED}\) is NaN"),
    "sample: map": (
        "sample",
        cross_map,
        rf"'cross_map' of r00 has a inf at image 5, image 5 \('a blue.*', {SEED}\), "
        r"i 2 \(t = 2\)",
    ),
    "score": ("score", embedded, rf"the score of image 2 \('a heart holding a balloon', {SEED}\) is NaN"),
    "extract": (
        "extract",
        value_of_a_reference,
        rf"V of up_2.0 of reference 0 \('a heart.*', {SEED}\) is NaN or "
        "infinite at t = 2",
    ),
    "fuse: picture": ("fuse", decoded, rf"the decoded picture of pair 1 \('a heart.*', base {SEED}\) is NaN"),
    "adopt": ("adopt", embedded, rf"the score of pair 2 \('a blue and dotted square', base {SEED}\) is NaN"),
    "train: log_prob": (
        "train",
        log_prob(0),
        rf"in update 0, log_prob of the loser of pair \d "
        rf"\('a .*', base {SEED}\) is NaN or infinite at t = \d",
    ),
    "train: later": (
        "train",
        log_prob(1),
        rf"in update 1, log_prob of the loser of pair \d "
        rf"\('a .*', base {SEED}\) is NaN or infinite at t = \d",
    ),
    "train: weight": ("train", weight, r"the weight of down_blocks\.\S+lora_\S+ is NaN or infinite in update 0 of r00"),
    "evaluate: picture": ("evaluate", decoded, rf"the decoded picture of evaluation image 1 \('a heart.*', {SEED}\)"),
    "evaluate: score": ("evaluate", embedded, rf"the score of evaluation image 2 \('a blue.*', {SEED}\) is NaN"),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("case", IN_MEMORY)
def test_a_number_goes_bad_in_memory(project: Path, finished: Path, monkeypatch: Patch, case: str) -> None:
    stage, spoil, message = IN_MEMORY[case]
    again(stage)
    with monkeypatch.context() as patch, pytest.raises(BadNumber, match=message):
        spoil(patch)
        run(stage)
    there = {path.name for path in Path("runs/r00").iterdir()}
    assert there == {"sample", "score", "extract", "kv", "fuse", "adopt", "train", "evaluate"} - outputs(stage)
    run(stage)
    for name in outputs(stage):
        assert content(Path("runs/r00", name)) == content(finished / "runs/r00" / name)


def outputs(stage: str) -> set[str]:
    """What a failure of the stage may leave out; the masks of extract are published before its keys and values."""
    return {"kv"} if stage == "extract" else {stage}


def again(stage: str, round: str = "r00") -> None:
    """Forget what the stage made, wherever a copy is kept."""
    for name in outputs(stage):
        forget(name, round)
    shutil.rmtree(".dfusion", ignore_errors=True)


# --- in a published file ---


def spoil_weights(file: Path) -> None:
    tensors = load_file(file)
    next(value for value in tensors.values() if value.size > 1).flat[3] = np.nan
    save_file(tensors, file)


def spoil_reward(file: Path) -> None:
    table = pd.read_csv(file)
    table.loc[5, "reward"] = np.inf
    table.to_csv(file, index=False)


IN_A_FILE: dict[str, tuple[str, str, str, Callable[[Path], None], type[DFusionError], str]] = {
    "adapter, sampling": (
        "sample",
        "train",
        "adapter/pytorch_lora_weights.safetensors",
        spoil_weights,
        ModelError,
        r"adapter: runs/r00/train/adapter/\S+ cannot be read: unet\.\S+ is NaN or infinite",
    ),
    "adapter, training": (
        "train",
        "train",
        "adapter/pytorch_lora_weights.safetensors",
        spoil_weights,
        ModelError,
        r"adapter: runs/r00/train/adapter/\S+ cannot be read: unet\.\S+ is NaN or infinite",
    ),
    "moments": (
        "train",
        "train",
        "optimizer.safetensors",
        spoil_weights,
        StoreError,
        r"runs/r00/train/optimizer.safetensors cannot be used: exp_avg\S+ is NaN or infinite",
    ),
    "reward history": (
        "train",
        "train",
        "reward_history.csv",
        spoil_reward,
        StoreError,
        r"runs/r00/train/reward_history.csv row 5 has inf in the column 'reward'",
    ),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("case", IN_A_FILE)
def test_a_number_is_bad_in_a_file_of_the_round_before(project: Path, finished: Path, case: str) -> None:
    stage, broken, file, spoil, kind, message = IN_A_FILE[case]
    again(stage, "r01")
    spoil(Path("runs/r00", broken, file))
    reseal(broken)
    with pytest.raises(kind, match=message):
        run(stage, "r01")
    assert not Path("runs/r01", stage).exists()
    shutil.copytree(finished / "runs", "runs", dirs_exist_ok=True)
    again(stage, "r01")
    run(stage, "r01")
    assert content(Path("runs/r01", stage)) == content(finished / "runs/r01" / stage)


@pytest.mark.parametrize("stage", ["extract", "train"])
def test_a_score_is_bad_in_its_table(project: Path, stage: str) -> None:
    again(stage)
    if stage == "extract":  # its masks, which `again` leaves
        forget(stage)
    spoil_reward(Path("runs/r00/score/scores.csv"))
    reseal("score")
    with pytest.raises(StoreError, match=r"runs/r00/score/scores.csv row 5 has inf in the column 'reward'. Bring"):
        run(stage)


# --- keys and values of a reference: only those inside the mask are used ---


def spoil_stored(patch: Patch, inside: bool) -> None:
    """A NaN in K and an infinity in V of up_1.0, at the first fused step, at one position of the first pair."""
    stored = extraction.stored_kv

    def broken(*arguments: Any) -> Any:
        kv = stored(*arguments)
        assert kv is not None
        i = min(kv)
        K, V = kv[i]["up_1.0"]
        side = round(K.shape[2] ** 0.5)
        M = torch.from_numpy(read_stage("extract", "r00").rows("mask", [0])[:, i])
        token = int((resize(M, (side, side)).flatten() == inside).nonzero()[0])
        K[0, :, token], V[0, :, token] = NAN, INF
        return kv

    patch.setattr(extraction, "stored_kv", broken)


def test_a_bad_key_inside_the_mask(project: Path, finished: Path, monkeypatch: Patch) -> None:
    again("fuse")
    with monkeypatch.context() as patch, pytest.raises(BadNumber) as caught:
        spoil_stored(patch, inside=True)
        run("fuse")
    seed = read_stage("extract", "r00").table("pairs").base_seed[0]
    assert caught.value.message == (
        f"the fused latent of pair 0 ('a heart holding a balloon', base seed {seed}) is NaN or infinite at t = 3."
    )
    run("fuse")
    assert content(Path("runs/r00/fuse")) == content(finished / "runs/r00/fuse")


def test_a_bad_key_that_is_not_used(project: Path, finished: Path, monkeypatch: Patch) -> None:
    """Outside the mask it stops nothing and changes not a byte."""
    again("fuse")
    spoil_stored(monkeypatch, inside=False)
    run("fuse")
    assert content(Path("runs/r00/fuse")) == content(finished / "runs/r00/fuse")


# --- "not stored" is no hiding place for a NaN ---


@pytest.mark.parametrize("pairs", ["dfusion", "same_noise"])
def test_a_stored_log_prob_that_is_bad(project: Path, monkeypatch: Patch, pairs: str) -> None:
    """NaN stands for log-probs that were never stored, of a twin that loses; one that was stored cannot pass for it."""
    if pairs == "same_noise":
        change(pairs=pairs)
        for stage in ("fuse", "adopt"):
            run(stage)
    rows = StageData.rows

    def broken(data: StageData, name: str, which: Any) -> Any:
        found = rows(data, name, which)
        if name == "log_prob" and len(found):
            found[-1, 2] = np.nan
        return found

    monkeypatch.setattr(StageData, "rows", broken)
    table = read_stage("adopt", "r00").table("training")
    with pytest.raises(NotFinite, match="the stored log_prob of the loser") as caught:
        trajectories.load_pairs(table, {name: read_stage(name, "r00") for name in ("sample", "fuse")})
    assert caught.value.row == table.index[table.loser_stage == "sample"][-1]
