"""Eq. 1, 4, 5, 7, the pairing of Algorithm 1 and the normalised rewards, on whatever hypothesis can think of.

Beside each stands the formula once more, one number at a time. The examples are the same in every run.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dfusion_core.adoption.rule import adopts
from dfusion_core.attention.fusion import fuse_kv, resize
from dfusion_core.attention.masks import item_mask, merge
from dfusion_core.diffusion import ddim
from dfusion_core.pairing.algorithm1 import pair
from dfusion_core.training.advantages import SMALLEST_STD, advantages

CONFIG = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
SCORES = st.floats(-10, 10, width=32)
ALWAYS = settings(derandomize=True, deadline=None, database=None, max_examples=100)


def numbers(*shape: int, low: float = -4, high: float = 4) -> st.SearchStrategy[Any]:
    return arrays(np.float32, shape, elements=st.floats(low, high, width=32))


# --- Eq. (1) ---


@ALWAYS
@given(T=st.integers(2, 60), eta=st.floats(0.01, 1), kind=st.sampled_from(["epsilon", "v_prediction"]), data=st.data())
def test_a_step_is_the_printed_gaussian(T: int, eta: float, kind: str, data: st.DataObject) -> None:
    """Mean and std in float64 from the table of alphas alone; the log-prob of what is drawn is that of the noise."""
    schedule = ddim.schedule({**CONFIG, "prediction_type": kind}, T, eta)
    i = data.draw(st.integers(0, T - 1))
    x_t, out, z = (torch.from_numpy(data.draw(numbers(1, 2, 2, 2))).double() for _ in range(3))
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
    abar = np.cumprod(1 - betas)
    t = (T - 1 - i) * (1000 // T) + 1
    a_t, a_prev = abar[t], abar[max(t - 1000 // T, 0)]
    std = eta * math.sqrt((1 - a_prev) / (1 - a_t) * (1 - a_t / a_prev))
    if kind == "epsilon":
        eps, x_0 = out, (x_t - math.sqrt(1 - a_t) * out) / math.sqrt(a_t)
    else:
        eps = math.sqrt(a_t) * out + math.sqrt(1 - a_t) * x_t
        x_0 = math.sqrt(a_t) * x_t - math.sqrt(1 - a_t) * out
    mean = math.sqrt(a_prev) * x_0 + math.sqrt(max(1 - a_prev - std**2, 0)) * eps
    torch.testing.assert_close(ddim.mean(schedule, i, x_t, out), mean, rtol=1e-4, atol=1e-4)
    assert math.isclose(float(schedule.std[i]), std, rel_tol=1e-4) and std > 0
    drawn = ddim.step(schedule, i, x_t, out, z)
    density = (-0.5 * z**2 - math.log(std) - 0.5 * math.log(2 * math.pi)).mean()
    found = ddim.log_prob(drawn, ddim.mean(schedule, i, x_t, out), schedule.std[i])
    torch.testing.assert_close(found[0], density, rtol=1e-3, atol=1e-3)


# --- Eq. (4) ---


@ALWAYS
@given(
    maps=numbers(2, 3, 4, 5, low=0, high=1),
    thr=st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3),
    how=st.sampled_from(["xor", "or"]),
    relative=st.booleans(),
)
def test_a_mask_is_one_comparison_a_position(maps: Any, thr: list[float], how: Any, relative: bool) -> None:
    mode: Any = "relative" if relative else "absolute"
    found = item_mask(torch.from_numpy(maps), thr, mode)
    merged = merge(found, how)
    for image, y, x in np.ndindex(2, 4, 5):
        covers = 0
        for item in range(3):
            bar = thr[item] * float(maps[image, item].mean()) if relative else thr[item]
            value = float(maps[image, item, y, x])
            if not math.isclose(value, bar, rel_tol=1e-5, abs_tol=1e-6):  # else rounding decides
                assert bool(found[image, item, y, x]) == (value > bar)
            covers += int(found[image, item, y, x])
        assert bool(merged[image, y, x]) == (covers % 2 == 1 if how == "xor" else covers > 0)


@ALWAYS
@given(maps=numbers(1, 1, 4, 4, low=0, high=1), low=st.floats(0, 1, width=32), high=st.floats(0, 1, width=32))
def test_a_higher_threshold_never_adds(maps: Any, low: float, high: float) -> None:
    low, high = sorted((low, high))
    more, less = (item_mask(torch.from_numpy(maps), thr) for thr in (low, high))
    assert not bool((less & ~more).any())


# --- Eq. (5) ---


@ALWAYS
@given(K=numbers(4, 2, 3, 16, 2), mask=arrays(bool, (2, 4, 4)), spoilt=st.sampled_from([math.nan, math.inf, 1e30]))
def test_every_position_comes_from_one_side(K: Any, mask: Any, spoilt: float) -> None:
    """Inside the mask the reference's, outside the target's, bit for bit; the other side is not even seen."""
    K_r, V_r, K_a, V_a = map(torch.from_numpy, K.copy())
    chosen = torch.from_numpy(mask)
    K_new, V_new = fuse_kv(K_r, V_r, K_a, V_a, chosen)
    for row, y, x in np.ndindex(2, 4, 4):
        token = 4 * y + x
        side_K, side_V = (K_r, V_r) if mask[row, y, x] else (K_a, V_a)
        assert torch.equal(K_new[row, :, token], side_K[row, :, token])
        assert torch.equal(V_new[row, :, token], side_V[row, :, token])
    inside = chosen.flatten(1)[:, None, :, None]
    again = fuse_kv(
        K_r.masked_fill(~inside, spoilt),
        V_r.masked_fill(~inside, spoilt),
        K_a.masked_fill(inside, spoilt),
        V_a.masked_fill(inside, spoilt),
        chosen,
    )
    assert torch.equal(again[0], K_new) and torch.equal(again[1], V_new)


@ALWAYS
@given(
    mask=arrays(bool, st.tuples(st.just(1), st.integers(1, 9), st.integers(1, 9))),
    y=st.integers(1, 12),
    x=st.integers(1, 12),
)
def test_resizing_takes_the_pixel_below(mask: Any, y: int, x: int) -> None:
    """Nearest neighbour: row i of y is row floor(i * height / y)."""
    found = resize(torch.from_numpy(mask), (y, x))[0]
    height, width = mask.shape[1:]
    for i, j in np.ndindex(y, x):
        assert bool(found[i, j]) == mask[0, i * height // y, j * width // x]


# --- Eq. (7) ---


@ALWAYS
@given(R=numbers(3, 8), thr=st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]))
def test_adoption_is_the_printed_inequality(R: Any, thr: float) -> None:
    R_a, R_r, R_b = torch.from_numpy(R.astype(np.float64))
    found = adopts(R_a, R_r, R_b, thr)
    for k in range(8):
        a, r, b = (float(values[k]) for values in (R_a, R_r, R_b))
        assert bool(found[k]) == (a - b >= thr * (r - b))
    better = adopts(R_a + 1, R_r, R_b, thr)
    assert not bool((found & ~better).any())  # a target that scores more is not turned away


# --- Algorithm 1 ---


@ALWAYS
@given(scores=st.lists(SCORES, min_size=2, max_size=40))
def test_every_image_is_in_one_pair_and_no_base_beats_a_reference(scores: list[float]) -> None:
    pairs = pair(scores)
    references, bases = zip(*pairs, strict=True)
    used = [*references, *bases]
    assert len(used) == len(set(used)) == 2 * (len(scores) // 2)
    assert min(scores[r] for r in references) >= max(scores[b] for b in bases)
    left = [scores[k] for k in range(len(scores)) if k not in used]
    assert all(max(scores[b] for b in bases) <= one <= min(scores[r] for r in references) for one in left)
    ranks = sorted(range(len(scores)), key=lambda k: (-scores[k], k))
    assert list(references) == ranks[: len(pairs)] and list(bases) == ranks[len(ranks) - len(pairs) :]


@ALWAYS
@given(scores=st.lists(SCORES, min_size=1, max_size=10).map(lambda some: some * 4), data=st.data())
def test_scores_that_only_differ_in_scale_pair_the_same(scores: list[float], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(scores))))
    shuffled = [scores[k] for k in order]
    for mode in ("halves", "top_quarter_twice"):
        pairs = pair(shuffled, mode)
        assert pair([4 * one for one in shuffled], mode) == pairs
        assert len(pairs) == len(scores) // 2
        times = [sum(r == k for r, _ in pairs) for k in range(len(scores))]
        assert set(times) <= ({0, 1} if mode == "halves" else {0, 2})


# --- normalised rewards ---


@ALWAYS
@given(rewards=st.lists(st.tuples(st.sampled_from("abc"), SCORES), min_size=1, max_size=40), clip=st.floats(0.1, 9))
def test_advantages_are_those_of_the_prompt_alone(rewards: list[tuple[str, float]], clip: float) -> None:
    history = pd.DataFrame(rewards, columns=["prompt", "reward"]).assign(round="r00")
    found = advantages(history.prompt, history.reward, history, clip)
    for k, (prompt, reward) in enumerate(rewards):
        own = [value for name, value in rewards if name == prompt]
        mean = math.fsum(own) / len(own)
        std = math.sqrt(math.fsum((value - mean) ** 2 for value in own) / len(own))
        expected = max(-clip, min(clip, (reward - mean) / (std + SMALLEST_STD)))
        if std > 1e-5 or std == 0:  # in between rounding of the mean is all there is
            assert math.isclose(float(found[k]), expected, rel_tol=1e-3, abs_tol=1e-3)
    assert np.isfinite(found).all() and (np.abs(found) <= np.float32(clip)).all()


@ALWAYS
@given(rewards=st.lists(st.integers(-64, 64), min_size=4, max_size=20), shift=st.integers(-8, 8))
def test_advantages_do_not_know_the_scale(rewards: list[int], shift: int) -> None:
    """Numbers that are exact in binary, so that equal means equal."""
    tables = [
        pd.DataFrame({"round": "r00", "prompt": "a", "reward": [4.0 * one + shift for one in rewards]}),
        pd.DataFrame({"round": "r00", "prompt": "a", "reward": [float(one) for one in rewards]}),
    ]
    shifted, plain = (advantages(one.prompt, one.reward, one, 5.0) for one in tables)
    np.testing.assert_allclose(shifted, plain, atol=1e-5)
