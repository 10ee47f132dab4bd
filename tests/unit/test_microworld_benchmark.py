"""`benchmarks/microworld.py` runs on the built-in model, and its figures are what they say, small."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.microworld import THRESHOLDS, Measured, iou, measure, megabytes
from benchmarks.microworld_fusion import Setting, lost_by_xor
from dfusion_core.extraction.masks import Masks
from dfusion_core.microworld.grammar import TEMPLATES
from dfusion_core.microworld.locate import WEIGHTS
from dfusion_core.params import Sample
from dfusion_core.params.sections import Extract, Fuse

SMALL = Setting(
    2,
    2,
    4,
    1,
    Extract(threshold="relative", relative_threshold=1.0),
    Fuse(layers=("mid", "up_1", "up_2"), first_t=2, last_t=1),
)


@pytest.mark.slow
def test_all_figures_are_measured() -> None:
    found, sheet = measure(Measured.load(WEIGHTS, Sample(num_steps=3, guidance_scale=3.0), "conventional"), 3, SMALL)
    assert set(found) == set(TEMPLATES) and sheet.ndim == 3
    for figures in found.values():
        assert figures["oracle_on_drawings"] >= 2 / 3 and figures["vae_psnr"] > 20
        assert set(figures["mask_iou"]) == set(THRESHOLDS)
        assert figures["pairs"] == 2 and 0 <= figures["lost_by_xor"] <= 1
        assert {"base", "target", "reference"} == set(figures["oracle"])
    assert 15 < sum(megabytes(WEIGHTS).values()) < 16


def test_lost_by_xor_counts_cells_of_two_items() -> None:
    """Step 0 is not fused. At the fused steps the items have 3 and 2 cells, one of them in common: 4 cells, 1 lost."""
    items = torch.zeros(1, 3, 2, 2, 4, dtype=torch.bool)
    items[0, 1:, 0, 0, :3] = True
    items[0, 1:, 1, 0, 2:] = True
    items[0, 0] = True
    masks = Masks(items.sum(2) % 2 == 1, items)
    assert lost_by_xor(masks, 3, SMALL) == pytest.approx(1 / 4)


def test_iou_by_hand() -> None:
    a, b = torch.zeros(2, 1, 4, dtype=torch.bool), torch.zeros(2, 1, 4, dtype=torch.bool)
    a[0, 0, :2] = b[0, 0, 1:3] = True  # one of three
    a[1] = b[1] = True
    assert iou(a, b) == pytest.approx((1 / 3 + 1) / 2)
    assert np.isfinite(iou(a, a))
