"""Who does what and which noise is whose: plans leave nothing out and give nothing twice, seeds never meet."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dfusion_core.diffusion.noise import image_seed, trajectory_noise, twin_seed
from dfusion_core.pairing.plan import evaluation_plan, image_plan, pair_plan, twin_plan
from dfusion_core.params.sections import Evaluate
from dfusion_core.prompts.reading import Prompt, PromptFile
from dfusion_core.runtime.ranks import share
from dfusion_core.store.parts import Parts
from dfusion_core.store.schema import SHARD_BYTES, SHARD_ROWS, shard_rows

ALWAYS = settings(derandomize=True, deadline=None, database=None, max_examples=100)


# --- seeds ---


@pytest.mark.slow
def test_no_seed_twice_in_a_million() -> None:
    """Of neighbouring runs, rounds, prompts and samples, twins included: by chance one collision in ten million such
    sets (a million squared over 2 * 2^63 is 5e-8). With `seed + index`, the usual way, image 1 of run 0 would be
    image 0 of run 1."""
    seeds = np.fromiter(
        (
            image_seed(*which)
            for which in itertools.product(
                (0, 1, 2, 42, 43), ("r00", "r01", "evaluate-train", "evaluate-test"), range(50), range(500)
            )
        ),
        np.int64,
    )
    twins = np.fromiter((twin_seed(int(seed)) for seed in seeds), np.int64)
    assert len(seeds) == 500_000
    assert len(np.unique(np.concatenate([seeds, twins]))) == 1_000_000


def test_every_bit_of_a_seed_is_a_coin() -> None:
    """Over 50,000 seeds each of the 63 bits is set in half, and so it is in what the seeds of two neighbouring runs
    differ by. 5 standard deviations are allowed: of 30,000 good functions one would fail."""
    images = list(itertools.product(range(100), range(500)))
    here, there = (np.array([image_seed(run, "r00", p, n) for p, n in images]) for run in (7, 8))
    for values in (here, here ^ there):
        shares = [((values >> bit) & 1).mean() for bit in range(63)]
        assert max(abs(share - 0.5) for share in shares) < 5 * 0.5 / 50_000**0.5


@pytest.mark.parametrize("other", [(8, "r00", 0, 0), (7, "r01", 0, 0), (7, "r00", 1, 0), (7, "r00", 0, 1)])
def test_noises_of_neighbours_are_independent(other: tuple[int, str, int, int]) -> None:
    """Neighbours in run, round, prompt, sample. Over 65,536 numbers the correlation of independent noises has a
    standard deviation of 1/256, however far one is shifted against the other; of a shared stream it would be 1 at some
    shift. 5 standard deviations are allowed, over all shifts 7.
    """
    noises = (trajectory_noise(image_seed(*which), (4, 32, 32), 15) for which in ((7, "r00", 0, 0), other))
    first, second = (np.concatenate([x_T.numpy().ravel(), z.numpy().ravel()]) for x_T, z in noises)
    count = len(first)
    assert count == 65_536
    shifted = np.fft.irfft(np.fft.rfft(first) * np.conj(np.fft.rfft(second))) / count  # at every shift
    assert abs(shifted[0]) < 5 / count**0.5
    assert np.abs(shifted).max() < 7 / count**0.5
    assert abs(first.mean()) < 5 / count**0.5 and abs(first.std() - 1) < 5 / (2 * count) ** 0.5


# --- plans of images ---


def prompts(count: int) -> tuple[Prompt, ...]:
    return tuple(Prompt(f"a {n}", (str(n),)) for n in range(count))


@ALWAYS
@given(count=st.integers(1, 5), images=st.integers(1, 8), seed=st.integers(0, 2**40), data=st.data())
def test_plans_of_images_pairs_and_twins(count: int, images: int, seed: int, data: st.DataObject) -> None:
    plan = image_plan(prompts(count), 2 * images, seed, "r00")
    assert plan.image.tolist() == list(range(2 * images * count)) and plan.seed.is_unique
    assert (plan.groupby("prompt_id")["sample"].apply(list).map(lambda one: one == list(range(2 * images)))).all()
    rewards = data.draw(st.lists(st.integers(0, 3), min_size=len(plan), max_size=len(plan)))  # with many ties
    pairs, references = pair_plan(plan, plan[["image"]].assign(reward=[float(one) for one in rewards]), "halves")
    assert sorted([*pairs.reference_image, *pairs.base_image]) == list(range(len(plan)))
    assert (plan.prompt_id[pairs.reference_image].to_numpy() == plan.prompt_id[pairs.base_image].to_numpy()).all()
    assert references.image[pairs.reference].tolist() == pairs.reference_image.tolist()
    assert pairs.base_seed.tolist() == plan.seed[pairs.base_image].tolist()
    twins = twin_plan(plan)
    assert len(twins) == len(pairs) and not set(twins.twin_seed) & set(plan.seed)


@ALWAYS
@given(train=st.integers(1, 5), test=st.integers(0, 5), images=st.integers(1, 4), first=st.integers(0, 6))
def test_evaluation_never_draws_a_training_image(train: int, test: int, images: int, first: int) -> None:
    assume(test or min(first, train))  # else there is nothing to evaluate, which is refused
    file = PromptFile(prompts(train), prompts(test))
    plan = evaluation_plan(file, Evaluate(images_per_prompt=images, train_count=min(first, train), seed=0))
    assert len(plan) == images * (min(first, train) + test) and plan.seed.is_unique
    assert not set(plan.seed) & set(image_plan(file.train, images, 0, "r00").seed)


# --- who makes which rows ---


@ALWAYS
@given(count=st.integers(0, 400), world=st.integers(1, 40))
def test_shares_of_the_processes_are_a_partition(count: int, world: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASTER_ADDR", "x")
        patch.setenv("MASTER_PORT", "1")
        patch.setenv("WORLD_SIZE", str(world))
        shares = []
        for rank in range(world):
            patch.setenv("RANK", str(rank))
            shares.append(share(range(count)))
    assert [item for one in shares for item in one] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@ALWAYS
@given(count=st.integers(0, 300), batch=st.integers(1, 70), data=st.data())
def test_parts_are_a_partition_whatever_is_finished(
    tmp_path_factory: pytest.TempPathFactory, count: int, batch: int, data: st.DataObject
) -> None:
    parts = Parts("sample", "r00", tmp_path_factory.mktemp("parts"))
    parts.expect(count, batch)
    assert [row for rows in parts.ranges for row in rows] == list(range(count))
    assert all(len(rows) == batch for rows in parts.ranges[:-1]) and parts.count == count
    finished = data.draw(st.sets(st.sampled_from(parts.ranges), max_size=3)) if count else set()
    for rows in finished:
        parts.write(rows, {"log_prob": np.zeros((len(rows), 2), np.float32)}, str)
    assert parts.unfinished() == [rows for rows in parts.ranges if rows not in finished]


@ALWAYS
@given(rows=st.integers(0, 10**6), row_bytes=st.integers(0, 2**34))
def test_shards_hold_what_they_may(rows: int, row_bytes: int) -> None:
    each = shard_rows(rows, row_bytes)
    assert 1 <= each <= max(1, min(SHARD_ROWS, rows))
    assert each == 1 or each * row_bytes <= SHARD_BYTES
    larger = each + 1
    assert larger > min(SHARD_ROWS, rows) or larger * row_bytes > SHARD_BYTES
