"""Detection of NaN and infinity at the place where they appear."""

from __future__ import annotations

import torch

from ..errors import NotFinite


def check_finite(x: torch.Tensor, what: str, t: int | None = None) -> None:
    """Raise NotFinite for the first row of x (n, ...) that holds a NaN or an infinity.

    what: the quantity, for the message; t: the paper's timestep at which it appeared.
    """
    bad = ~torch.isfinite(x).flatten(1).all(dim=1)
    if bad.any():
        raise NotFinite(what, int(bad.nonzero()[0, 0]), t)
