"""The doctor's arithmetic: how much work it does, verdicts on differences, and a runner that goes on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from dfusion_core.commands.doctor.facts import Facts, listed
from dfusion_core.commands.doctor.findings import Finding, from_error, ok
from dfusion_core.commands.doctor.folder import unwritable
from dfusion_core.commands.doctor.hardware import available_cores, free_memory, products
from dfusion_core.commands.doctor.runner import Check, run_checks
from dfusion_core.errors import ModelError
from dfusion_core.params.sections import Everything, Sample, Train

PAPER = Everything(sample=Sample(num_steps=20, batch_size=4), train=Train(micro_batch=8))


def facts(**changes: object) -> Facts:
    found = Facts(Path("params.yaml"))
    found.params = PAPER.model_copy(update=changes)
    return found


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
