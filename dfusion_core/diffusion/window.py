"""Step indices of a range of the paper's timesteps."""

from __future__ import annotations

from typing import Protocol


class Window(Protocol):
    """Parameters with a range of timesteps: from ``first_t`` (None: from T) down to ``last_t``."""

    @property
    def first_t(self) -> int | None: ...

    @property
    def last_t(self) -> int: ...


def step_indices(window: Window, T: int) -> range:
    """The step indices i = T - t of t = first_t, first_t - 1, ..., last_t."""
    first_t = T if window.first_t is None else window.first_t
    return range(T - first_t, T - window.last_t + 1)
