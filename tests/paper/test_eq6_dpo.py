"""Eq. (6): -log sigmoid[ beta p(x^a)/p_old(x^a) - beta p(x^b)/p_old(x^b) ]."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dfusion_core.training.losses import DpoForm, dpo_loss

FORMS: tuple[DpoForm, ...] = ("ratio", "log_ratio")


def d(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_hand_numbers() -> None:
    """beta = 2; winner's log-prob up by log 1.5, loser's down by log 2 (ratio 0.5).

    ratio form:     -log sigmoid(2*1.5 - 2*0.5)            = log(1 + e^-2)       = 0.126928011
    log_ratio form: -log sigmoid(2*(0.405465 + 0.693147))  = log(1 + e^-2.197225) = log(1 + 1/9) = 0.105360516
    """
    given = (d(math.log(1.5) - 1.0), d(-1.0), d(-math.log(2.0) - 0.3), d(-0.3))
    assert float(dpo_loss(*given, beta=2.0)) == pytest.approx(0.126928011, abs=1e-9)
    assert float(dpo_loss(*given, beta=2.0, form="log_ratio")) == pytest.approx(0.105360516, abs=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beta", [0.1, 1.0, 5000.0])
def test_log_2_at_ratio_1(form: DpoForm, beta: float) -> None:
    lp_w, lp_l = d(-0.98, 1.4, 2.5), d(-1.0, 1.2, 2.4)
    loss = dpo_loss(lp_w, lp_w, lp_l, lp_l, beta, form)
    assert loss.shape == (3,)
    torch.testing.assert_close(loss, d(*[math.log(2)] * 3))


@pytest.mark.parametrize("form", FORMS)
def test_gradient_by_finite_differences(form: DpoForm) -> None:
    w, w_old, ll, l_old = d(0.3, -0.2), d(0.1, -0.1), d(-0.5, 0.4), d(-0.2, 0.5)
    w.requires_grad_(), ll.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: dpo_loss(a, w_old, b, l_old, 1.7, form), (w, ll))


def test_forms_have_one_gradient_at_ratio_1() -> None:
    """Both give -beta/2 for the winner and +beta/2 for the loser there."""
    for form in FORMS:
        w, ll = d(0.3).requires_grad_(), d(-0.4).requires_grad_()
        dpo_loss(w, w.detach(), ll, ll.detach(), beta=3.0, form=form).backward()
        assert w.grad is not None and ll.grad is not None
        assert (float(w.grad), float(ll.grad)) == pytest.approx((-1.5, 1.5))


def test_forms_differ_in_second_order_only() -> None:
    def gap(h: float) -> float:
        rows = (d(h), d(0.0), d(-0.5 * h), d(0.0))
        return abs(float(dpo_loss(*rows, beta=1.0) - dpo_loss(*rows, beta=1.0, form="log_ratio")))

    assert gap(1e-2) / gap(1e-3) == pytest.approx(100, rel=0.1)


def test_old_policy_gets_no_gradient() -> None:
    rows = [d(0.1).requires_grad_() for _ in range(4)]
    dpo_loss(rows[0], rows[1], rows[2], rows[3], beta=1.0).backward()
    assert [row.grad is not None for row in rows] == [True, False, True, False]


def test_extreme_margins_stay_finite() -> None:
    loss = dpo_loss(d(-50.0, 3.0), d(0.0, 0.0), d(3.0, -50.0), d(0.0, 0.0), beta=5000.0)
    assert torch.isfinite(loss).all()


def test_unknown_form() -> None:
    with pytest.raises(ValueError, match="'logratio'"):
        dpo_loss(d(0), d(0), d(0), d(0), 1.0, "logratio")
