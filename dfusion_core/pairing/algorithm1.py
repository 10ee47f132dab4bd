"""Algorithm 1: the pairs of reference and base of a prompt's images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # tables are made before torch is imported
    from collections.abc import Iterable

Pairing = Literal["halves", "top_quarter_twice"]


def pair(scores: Iterable[float], mode: Pairing = "halves") -> list[tuple[int, int]]:
    """Algorithm 1: sort the K images of one prompt by reward, zip the better half with the worse half.

    scores: (K,) tensor, array or list, higher is better; ties keep the order of the images.
    With odd K the middle image is left out (the printed slices would make it a base and drop the worst; the
    paper's K is even). top_quarter_twice: the authors' code pairs the best quarter, each image twice, with
    the worse half (K divisible by 4).
    Returns [(reference, base), ...], indices into scores, best first. Raises ValueError.
    """
    values = [float(score) for score in scores]
    K = len(values)
    if K < 2:
        raise ValueError(f"a pair needs 2 images of a prompt, there is {K}")
    if any(value != value for value in values):
        raise ValueError("a score is NaN: images cannot be ranked")
    order = sorted(range(K), key=lambda k: -values[k])  # sorted() is stable
    base = order[K - K // 2 :]
    if mode == "halves":
        return list(zip(order[: K // 2], base, strict=True))
    if mode != "top_quarter_twice":
        raise ValueError(f"pairing mode must be 'halves' or 'top_quarter_twice', got {mode!r}")
    if K % 4:
        raise ValueError(f"top_quarter_twice needs a number of images divisible by 4, got {K}")
    return list(zip([r for r in order[: K // 4] for _ in range(2)], base, strict=True))
