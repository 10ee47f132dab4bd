"""Eq. (7): adoption of targets."""

from __future__ import annotations

from torch import Tensor


def adopts(R_a: Tensor, R_r: Tensor, R_b: Tensor, thr_ado: float) -> Tensor:
    """Eq. (7): R(x_0^a) - R(x_0^b) >= thr_ado * (R(x_0^r) - R(x_0^b)).

    R_a, R_r, R_b: (pair,), rewards of target, reference and base; thr_ado: fraction of the reference's lead over the
    base that the target must reach (paper: 1.0). Returns bool (pair,); if False, the reference is used instead.
    """
    return R_a - R_b >= thr_ado * (R_r - R_b)
