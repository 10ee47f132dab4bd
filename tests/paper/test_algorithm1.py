"""Algorithm 1, the lines that pair: sort descending, zip the first half (references) with the second."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfusion_core.pairing.algorithm1 import pair


def test_halves() -> None:
    """Scores .1 .9 .4 .7: descending 1, 3, 2, 0; references 1, 3 meet bases 2, 0."""
    assert pair(torch.tensor([0.1, 0.9, 0.4, 0.7])) == [(1, 2), (3, 0)]
    assert pair(np.array([0.1, 0.9, 0.4, 0.7])) == [(1, 2), (3, 0)]


def test_authors_code() -> None:
    """Descending 7..0 of 8: the quarter 7, 6 each twice, with the worse half 3, 2, 1, 0."""
    assert pair(torch.arange(8.0), "top_quarter_twice") == [(7, 3), (7, 2), (6, 1), (6, 0)]


def test_ties_keep_their_order() -> None:
    assert pair([1.0] * 6) == [(0, 3), (1, 4), (2, 5)]


def test_odd_leaves_the_middle_out() -> None:
    assert pair([5.0, 4.0, 3.0, 2.0, 1.0]) == [(0, 3), (1, 4)]


@pytest.mark.parametrize("K", [2, 7, 16])
def test_a_reference_is_never_worse_and_none_is_used_twice(K: int) -> None:
    scores = torch.rand(K, generator=torch.Generator().manual_seed(K))
    pairs = pair(scores)
    assert len(pairs) == K // 2 and all(scores[r] >= scores[b] for r, b in pairs)
    assert len({image for both in pairs for image in both}) == 2 * (K // 2)


@pytest.mark.parametrize(
    ("scores", "mode", "message"),
    [
        ([1.0], "halves", "2 images"),
        ([], "halves", "2 images"),
        ([1.0, float("nan")], "halves", "NaN"),
        ([1.0] * 6, "top_quarter_twice", "divisible by 4"),
        ([1.0, 2.0], "thirds", "'thirds'"),
    ],
)
def test_refused(scores: list[float], mode: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair(scores, mode)
