"""Eq. (7): R(x_0^a) - R(x_0^b) >= thr_ado * (R(x_0^r) - R(x_0^b))."""

from __future__ import annotations

import pytest
import torch

from dfusion_core.adoption.rule import adopts

# Rewards exact in binary: reference 0.5, base 0.25, so the lead is 0.25.
R_r, R_b = torch.tensor(0.5), torch.tensor(0.25)


@pytest.mark.parametrize(
    ("R_a", "thr_ado", "expected"),
    [
        (0.5, 1.0, True),  # equality adopts
        (0.4375, 1.0, False),
        (0.625, 1.0, True),
        (0.375, 0.5, True),  # half the lead
        (0.25, 0.0, True),  # no better than the base is enough at 0
        (0.125, 0.0, False),
    ],
)
def test_hand_numbers(R_a: float, thr_ado: float, expected: bool) -> None:
    assert bool(adopts(torch.tensor(R_a), R_r, R_b, thr_ado)) is expected


def test_rows_are_independent() -> None:
    found = adopts(torch.tensor([0.5, 0.25]), R_r.expand(2), R_b.expand(2), 1.0)
    assert found.dtype == torch.bool and found.tolist() == [True, False]


def test_threshold_1_means_at_least_the_reference() -> None:
    R = torch.randint(0, 64, (3, 500), generator=torch.Generator().manual_seed(0)) / 64
    assert torch.equal(adopts(R[0], R[1], R[2], 1.0), R[0] >= R[1])


def test_nan_is_not_adopted() -> None:
    assert not adopts(torch.tensor(torch.nan), R_r, R_b, 0.0)
