"""The gates that are counted and not timed, on small models, and that the rivals of the benchmarks do the same work."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.autograd.profiler_util import DeviceType  # type: ignore[attr-defined]

from benchmarks import gates
from benchmarks.bench import Bench, Sizes
from benchmarks.gates import DEFAULT, GATES, measured, run_gates
from benchmarks.measures.disk import COUNTERS, disk
from benchmarks.measures.fusing import SAME, authors, fusing, off
from benchmarks.measures.sampling import sampling
from benchmarks.measures.training import ROUNDING, apart, training_images, training_pairs
from benchmarks.measures.utilisation import covered, idle, on_device, rates, work
from benchmarks.models import RandomSD
from benchmarks.observing import look, observe, ratios
from benchmarks.result import Check, Result, at_least, at_most
from benchmarks.rivals.training import d3po
from dfusion_core.attention.control import capturing
from dfusion_core.commands.plan.counting import forward_flops
from dfusion_core.commands.plan.networks import build_unet, unet_call
from dfusion_core.models.architectures import KNOWN

CPU = torch.device("cpu")
PAPER = Sizes(steps=20, images=1, targets=1, pairs=1, micro_batch=3, repeats=0)  # T = 20, fused from 18
SHORT = replace(PAPER, steps=10)


# SD's four levels, narrow and with one block each; latents are 16 x 16.
UNET = {
    "block_out_channels": (32,) * 4,
    "attention_head_dim": (2,) * 4,
    "cross_attention_dim": 32,
    "sample_size": 16,
    "layers_per_block": 1,
}
VAE = {"block_out_channels": (32,) * 4, "layers_per_block": 1}


@pytest.fixture(scope="module")
def tiny() -> RandomSD:
    return RandomSD(UNET, VAE)


def figures(results: list[Result], gate: str) -> list[float]:
    """What was counted for a gate; every check of it holds."""
    found = [result for result in results if result.gate == gate]
    for result in found:
        for check in result.checks:
            assert check.holds, f"{result.what}: {check}"
    return [result.values[0] for result in found if result.values]


# --- P1, P5, P9, P12, P14 ---


@pytest.mark.slow
def test_fusion_takes_72_rows_instead_of_120(tiny: RandomSD) -> None:
    results = fusing(Bench(tiny, PAPER, CPU))
    assert results[0].note == "72 U-Net rows a target instead of 120" and results[3].note == "36 rows a target"
    (ratio,) = figures(results, "P1")
    assert ratio == pytest.approx(72 / 120, rel=1e-3) and ratio <= 0.61
    assert results[0].verdict == "met"


def test_captured_maps_cost_a_thousandth() -> None:
    """At SD 2.1's size, one row: three modules, 256 queries and 77 tokens in 1,280 channels, two FLOPs each."""
    unet = build_unet(KNOWN["sd21"], torch.float16)
    row = unet_call(unet, 1, 77)
    plain = forward_flops(row)
    with capturing(unet):
        captured = forward_flops(row)
    assert captured - plain == 3 * 2 * 256 * 77 * 1280
    assert captured <= 1.001 * plain


@pytest.mark.slow
def test_sampling_makes_what_diffusers_makes(tiny: RandomSD) -> None:
    results = sampling(Bench(tiny, SHORT, CPU))
    for result in results:
        assert all(check.holds for check in result.checks), result
    assert 1 < results[0].values[0] < 1.01  # in a model of 32 channels the maps' share is larger


@pytest.mark.slow
def test_training_skips_what_winner_and_loser_share(tiny: RandomSD) -> None:
    """Four rows for each of 9 of 10 steps in 2 epochs; the loop has all 10, and as many again without gradients."""
    results = training_pairs(Bench(tiny, SHORT, CPU))
    flops, rows = figures(results, "P9")
    assert rows == 72 / 80 and "72 rows with gradients instead of 80" in results[0].note
    assert flops <= 0.689
    assert results[0].note.startswith("1 of 10 (pair, step) skipped")
    assert results[0].checks[0].value < 1e-9  # in fp64 nothing is left between the two


@pytest.mark.slow
def test_policy_gradient_is_that_of_a_loop(tiny: RandomSD) -> None:
    (result,) = training_images(Bench(tiny, SHORT, CPU))
    assert all(check.holds for check in result.checks) and result.checks[0].value < 1e-9
    assert result.note == "48 rows instead of 40"  # 10 pairs of states are filled up to four micro-batches of 3


def test_fusion_needs_no_more_memory_than_sampling(tiny: RandomSD) -> None:
    (result,) = run_gates(("P12",), Bench(tiny, SHORT, CPU))
    assert result.verdict == "met" and 0.5 < result.values[0] <= 1.1


@pytest.mark.slow
def test_every_step_shares_one_compiled_graph(tiny: RandomSD) -> None:
    *stages, training = run_gates(("P13",), Bench(tiny, SHORT, CPU))
    assert [result.values for result in stages] == [(1,), (1,), (1,)]
    assert all(result.verdict == "met" for result in stages)
    assert training.values == (2,)


@pytest.mark.slow
@pytest.mark.skipif(not COUNTERS.exists(), reason="nothing counts what a process writes")
def test_bytes_of_a_round(tiny: RandomSD) -> None:
    """960 trajectories of 21 latents, 640 x 20 maps of up to three items, in fp32; nothing is written three times."""
    left, kv, _, written = disk(Bench(tiny, SHORT, CPU))
    latents, map_ = 960 * 21 * 4 * 64 * 64 * 4, 640 * 20 * 16 * 16 * 4
    assert left.verdict == "met" and latents + map_ < left.values[0] * 1e9 < latents + 3 * map_ + 2e7
    assert kv.values == (0,)
    assert left.values[0] < written.values[0] < 2.05 * left.values[0]


# --- P10, P15: what a CPU can say of figures of a GPU ---


def test_flops_that_a_rate_is_made_of(tiny: RandomSD) -> None:
    """Sampling is T forwards of two rows, and reads one layer's maps; nothing else counts."""
    bench = Bench(tiny, SHORT, CPU)
    seen = look(work(bench)["sampling"], [bench.plain.unet])
    narrow = replace(KNOWN["sd21"], unet=KNOWN["sd21"].unet | UNET)
    forward = 2 * forward_flops(unet_call(build_unet(narrow, torch.float32), 1, 77))
    maps = 2 * 2 * 4 * 4 * 77 * 32  # queries of a level of 4 x 4, tokens and channels; two FLOPs in each of two rows
    assert seen.rows == 2 * 10 and seen.flops == 10 * (forward + 2 * maps)
    assert rates(replace(seen, flops=3 * 10**12, seconds=[2.0, 1.5])) == (1.5, 2.0)


def test_sixteen_bits_are_timed_and_fp32_is_checked(monkeypatch: pytest.MonkeyPatch, tiny: RandomSD) -> None:
    def measure(bench: Bench) -> list[Result]:
        seconds = tuple(1.0 for _ in range(bench.sizes.repeats))
        check = Check(bench.model.dtype, 0, at_most(0))
        return [Result("P1", "", (0.6,), checks=(check,)), Result("P2", bench.model.dtype, seconds, checks=(check,))]

    monkeypatch.setattr(gates, "COMPARISONS", (measure,))
    counted, timed = measured(measure, Bench(replace(tiny, dtype="fp16"), replace(SHORT, repeats=2), CPU))
    assert timed.what == "fp16" and timed.values == (1.0, 1.0)
    assert counted.checks[0].what == timed.checks[0].what == "fp32"


def test_idle_is_what_no_kernel_covers() -> None:
    assert covered([(0, 2), (5, 6), (1, 3), (5.2, 5.5)]) == 4  # two streams at once count once
    device, host = DeviceType.CUDA, DeviceType.CPU

    def event(kind: object, start: float, end: float, annotation: bool = False) -> SimpleNamespace:
        return SimpleNamespace(
            device_type=kind, is_user_annotation=annotation, time_range=SimpleNamespace(start=start, end=end)
        )

    assert on_device([event(device, 1e6, 3e6), event(host, 0, 9e6), event(device, 0, 9e6, True)]) == [(1, 3)]
    assert not idle(Bench(RandomSD(UNET, VAE), SHORT, CPU))[0].values


# --- the checks can fail ---


@pytest.mark.slow
def test_another_mask_and_a_missing_term_are_seen(tiny: RandomSD) -> None:
    bench = Bench(tiny, SHORT, CPU)
    scene = bench.scene
    theirs, other = authors(bench, scene, explicit=True), replace(scene, mask=~scene.mask)
    assert off(theirs.target, bench.fuse(bench.plain, other)) > 10 * SAME
    pairs, train, frozen = bench.targets, bench.train_settings(inner_epochs=1), replace(bench.trained)
    bench.reset()
    whole = d3po(bench.trained, frozen, pairs, train)
    bench.reset()
    less = d3po(
        bench.trained,
        frozen,
        replace(pairs, winner=pairs.winner.clone().index_copy_(1, torch.tensor([10]), pairs.loser[:, 10:11])),
        train,
    )
    assert apart(less, whole) > 10 * ROUNDING


# --- the suite itself ---


def test_verdicts() -> None:
    good, bad = Check("latents", 1e-5, at_most(1e-4)), Check("latents", 1e-3, at_most(1e-4))
    assert Result("P2", "", (2.0, 4.0, 3.1), at_least(3.0), (good,)).verdict == "met"
    assert Result("P2", "", (2.0, 4.0, 2.9), at_least(3.0), (good,)).verdict == "missed"
    assert Result("P2", "", (2.0, 4.0, 3.1), at_least(3.0), (good, bad)).verdict == "not exact"
    assert Result("P15", "", note="it asks for a GPU").verdict == "not measured"
    assert Result("startup", "", (3.0,)).verdict == "reported"
    assert Result("P1", "", (0.61,), at_most(0.61)).as_json()["high"] == 0.61


def test_sides_are_interleaved_and_counted() -> None:
    layer, x, order = torch.nn.Linear(8, 3, bias=False), torch.ones(5, 8), []

    def side(name: str) -> torch.Tensor:
        order.append(name)
        return layer(x)

    seen = observe({"a": lambda: side("a"), "b": lambda: side("b").detach()}, [layer], 2, CPU)
    assert order == list("ab" * 3)
    assert (seen["a"].flops, seen["a"].rows, seen["a"].trained_rows) == (2 * 5 * 8 * 3, 5, 5)
    assert len(ratios(seen["a"], seen["b"])) == 2


def test_every_gate_is_listed() -> None:
    assert tuple(f"P{number}" for number in range(1, 17)) == DEFAULT
    assert set(GATES) - set(DEFAULT) == {"P17", "startup", "imports", "graph", "graph300", "images", "plan"}
