"""Numbers that are NaN or infinite are refused where they appear."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import BadNumber


def check_finite(x: torch.Tensor, what: str, describe: Sequence[str] = (), t: int | None = None) -> None:
    """Raise BadNumber naming the row of x (n, ...) with a NaN or an infinity, by its description if there is one."""
    bad = ~torch.isfinite(x).flatten(1).all(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0, 0])
        raise BadNumber(
            f"{what} of {describe[row] if describe else f'row {row}'} is NaN or infinite"
            f"{'' if t is None else f' at t = {t}'}.",
            "If model.dtype is fp16, try fp32; a learning rate that is too high does this as well.")
