"""Sheets of labelled tiles: where pictures are, what is written above them, masks over pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageFont

from dfusion_core.evaluation.sheets import (
    GAP,
    LARGEST,
    NARROWEST,
    SMALLEST,
    TEXT,
    Line,
    Tile,
    cut,
    false_colours,
    grey,
    overlay,
    sheet,
)

ROW = TEXT + GAP


def plain(value: int, height: int = 80, width: int = 80) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_tiles_stand_below_their_titles_and_labels() -> None:
    lines = [Line([Tile(plain(10), "t = 2"), Tile(plain(20), "t = 1")], "a cat"), Line([Tile(plain(30))])]
    found = np.asarray(sheet(lines))
    assert found.shape == (2 * ROW + 80 + GAP + 80, 2 * 80 + GAP, 3)
    assert (found[2 * ROW : 2 * ROW + 80, :80] == 10).all() and (found[2 * ROW : 2 * ROW + 80, 80 + GAP :] == 20).all()
    assert (found[2 * ROW + 80 + GAP :, :80] == 30).all() and (found[2 * ROW + 80 + GAP :, 80:] == 255).all()
    for top in (0, ROW):  # the title, then the labels
        assert (found[top : top + ROW] < 128).any()
    assert not (found[ROW : 2 * ROW, 40:80] < 128).any()  # "t = 2" is short


def test_a_label_of_two_lines_ends_above_its_tile() -> None:
    found = np.asarray(sheet([Line([Tile(plain(10), "one\ntwo"), Tile(plain(20), "three")])]))
    assert found.shape[0] == 2 * ROW + 80
    assert (found[:ROW, :80] < 128).any() and not (found[:ROW, 80:] < 128).any()
    assert (found[ROW : 2 * ROW, 84:] < 128).any()


@pytest.mark.parametrize(("side", "shown"), [(16, SMALLEST), (48, 96), (80, 80), (512, LARGEST)])
def test_sizes(side: int, shown: int) -> None:
    """Small tiles are enlarged by a whole factor, large ones are reduced; their shape stays."""
    assert sheet([Line([Tile(plain(0, side, side))])]).size == (shown, shown)
    assert sheet([Line([Tile(plain(0, side, side // 2))])], 100).size == (50, 100)


def test_texts_are_cut_to_the_room_there_is() -> None:
    font = ImageFont.load_default(TEXT)
    assert cut("a  cat\nsits", 500, font) == "a cat sits"
    short = cut("word " * 100, 120, font)
    assert short.endswith("…") and font.getlength(short) <= 120 < font.getlength(short + "word")
    assert sheet([Line([Tile(plain(0))], "word " * 100)]).width == NARROWEST


def test_a_mask_over_a_picture() -> None:
    """Colour where it holds, the picture where it does not; a share of masks in between."""
    picture = plain(100, 4, 4)
    found = overlay(picture, np.array([[1, 0], [0, 0.5]]))
    assert (found[2:, :2] == 100).all() and (found[:2, 2:] == 100).all()
    full, half = found[0, 0].astype(int) - 100, found[3, 3].astype(int) - 100
    assert full.tolist() == [93, -60, 60] and np.abs(full - 2 * half).max() <= 1


def test_maps_and_latents_are_on_one_scale() -> None:
    assert np.array(grey(np.array([[[0.0, 0.5]], [[0.25, 0.0]]])))[..., 0].tolist() == [[[0, 255]], [[128, 0]]]
    latents = np.stack([np.full((4, 2, 2), value, np.float32) for value in (-1.0, 0.0, 3.0)])
    assert [int(one[0, 0, 0]) for one in false_colours(latents)] == [0, 64, 255]
