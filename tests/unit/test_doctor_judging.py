"""The doctor's arithmetic: how much work it does, verdicts on differences, and a runner that goes on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from dfusion_core.commands.doctor.effort import SECONDS, Effort, choose
from dfusion_core.commands.doctor.logprobs import judged
from dfusion_core.commands.doctor.passes import one_step

from dfusion_core.commands.doctor.facts import Facts, listed
from dfusion_core.commands.doctor.findings import Finding, from_error, ok
from dfusion_core.commands.doctor.folder import unwritable
from dfusion_core.commands.doctor.hardware import available_cores, free_memory, products
from dfusion_core.commands.doctor.runner import Check, run_checks
from dfusion_core.errors import ModelError
from dfusion_core.models.policy import load_policy
from dfusion_core.params.sections import Everything, Sample, Train
from dfusion_core.testing import tiny_model

PAPER = Everything(sample=Sample(num_steps=20, batch_size=4), train=Train(micro_batch=8))


def facts(**changes: object) -> Facts:
    found = Facts(Path("params.yaml"), False)
    found.params = PAPER.model_copy(update=changes)
    return found


@pytest.mark.parametrize(("images", "quick", "steps", "batch", "micro"), [
    (1000, False, 20, 4, 8),  # everything: 20 steps of 4 + 1 images, 8 pairs
    (160, False, 20, 4, 8),  # 160 / 8 steps
    (80, False, 10, 4, 8),  # 80 / 10 - 1 = 7 rows, of which 4 are wanted
    (30, False, 3, 4, 5),
    (24, False, 3, 4, 4),
    (12, False, 2, 4, 2),
    (8, False, 2, 3, 1),
    (0.2, False, 2, 2, 1),  # never less
    (640, True, 10, 4, 8),  # an eighth
])
def test_work_by_the_time_of_an_image(images: float, quick: bool, steps: int, batch: int, micro: int) -> None:
    effort = choose(SECONDS / (images + 0.01), 16, PAPER, quick)
    assert (len(effort.steps), effort.batch, effort.micro) == (steps, batch, micro)
    assert effort.steps[0] == 0 and effort.steps[-1] == 19 and len(set(effort.steps)) == steps


def test_what_was_left_out_is_said() -> None:
    assert Effort(64, tuple(range(20)), 4, 8, 0.1).left_out(PAPER, 64) == ""
    assert Effort(16, (0, 19), 2, 1, 9.0).left_out(PAPER, 64) == (
        "steps 2 of 20, a batch of 2 instead of 4, a micro-batch of 1 instead of 8, latents of side 16 instead of 64")


def test_differences_by_timestep() -> None:
    """Index 0 is t = 20. At t = 2 and 1 the difference is above the tolerance."""
    off = {0: 1e-6, 10: 2e-4, 18: 0.5, 19: 0.2}
    found = judged(facts(), "replay", off, 1e-3, "this and that")
    assert found.verdict == "failed"
    assert found.found == "this and that differ by at most 0.5 (t = 2); 0.001 is allowed"
    assert found.remedy == "Set model.dtype to fp32, or train.last_t to 10."
    assert found.details == [{"t": 20, "replay": 1e-6}, {"t": 10, "replay": 2e-4}, {"t": 2, "replay": 0.5},
                             {"t": 1, "replay": 0.2}]


def test_steps_that_are_not_trained_do_not_count() -> None:
    found = judged(facts(train=Train(last_t=3)), "replay", {0: 1e-6, 17: 2e-4, 18: 0.5}, 1e-3, "a and b")
    assert found == ok("a and b differ by at most 0.0002 (t = 3); 0.001 is allowed", details=found.details)
    assert len(found.details) == 3


def test_a_difference_that_is_not_a_number_fails() -> None:
    found = judged(facts(), "ratio", {0: 0.0, 19: float("nan")}, 1e-3, "a and b")
    assert found.verdict == "failed" and "at most nan (t = 1)" in found.found
    everywhere = judged(facts(), "ratio", {0: 1.0, 19: float("nan")}, 1e-3, "a and b")
    assert everywhere.remedy == "Set model.dtype to fp32."  # there is no step to begin at


def test_the_runner_goes_on() -> None:
    def broken(_: Facts) -> Finding:
        raise ModelError("model.id: is wrong.", "Do this.")

    def surprised(_: Facts) -> Finding:
        raise ZeroDivisionError("by zero")

    def slow(_: Facts) -> Finding:
        time.sleep(0.02)
        return ok("fine")

    names: list[str] = []
    checks = (("a", broken, ()), ("b", slow, ("a",)), ("c", slow, ("b",)), ("d", surprised, ()), ("e", slow, ()))
    done = list(run_checks([Check(*one) for one in checks], facts(), names.append))
    assert names == ["a", "b", "c", "d", "e"]
    assert [one.finding.verdict for one in done] == ["failed", "skipped", "skipped", "failed", "ok"]
    assert (done[0].finding.found, done[0].finding.remedy) == ("model.id: is wrong", "Do this.")
    assert [one.finding.found for one in done[1:3]] == ["because of 'a' above", "because of 'b' above"]
    assert done[3].finding.found == "ZeroDivisionError: by zero" and "report it" in done[3].finding.remedy
    assert done[4].seconds >= 0.02 > done[1].seconds


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("tried to allocate 9 GiB"), MemoryError()])
def test_too_little_memory(error: Exception) -> None:
    found = from_error(error)
    assert found.verdict == "failed" and found.found.startswith("out of memory") and "'dfusion plan'" in found.remedy


def test_one_step_is_that_step(tmp_path: Path) -> None:
    from dfusion_core.params.sections import Model

    policy = load_policy(Model(id=str(tiny_model(tmp_path)), device="cpu"), Sample(num_steps=4), None)
    single, whole = one_step(policy, 2).schedule, policy.schedule
    assert single.num_steps == 1 and whole.num_steps == 4
    for name in ("timesteps", "abar_t", "abar_prev", "std"):
        assert getattr(single, name)[0] == getattr(whole, name)[2]


def test_products_are_what_numpy_says() -> None:
    import numpy as np

    found = products(torch.device("cpu"), torch.float32)
    assert found["matmul"].shape == (2, 16, 16) and found["convolution"].shape == (2, 16, 14, 14)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 16, 16, 16, generator=draw).numpy().astype(np.float64).reshape(2, 16, 256)
    np.testing.assert_allclose(found["matmul"], x @ x.transpose(0, 2, 1), rtol=0, atol=1e-3)


def test_the_machine() -> None:
    free, total = free_memory()
    assert 0 < free <= total and available_cores() >= 1


def test_folders(tmp_path: Path) -> None:
    assert unwritable(tmp_path / "not" / "yet" / "there") == ""
    (tmp_path / "file").write_text("")
    assert unwritable(tmp_path / "file").startswith("nothing can be written: ")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_list_with_an_end() -> None:
    assert listed(["a", "b"], 2) == "a, b" and listed(["a", "b", "c"], 2) == "a, b and 1 more"
