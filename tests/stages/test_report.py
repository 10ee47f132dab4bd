"""dfusion report: the page of the tiny run holds its numbers and pictures, loads nothing, escapes prompts."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from dfusion_core.commands.report.chart import Line, chart, ticks
from PIL import Image
from steps import change, forget, reseal, run

from dfusion_core.commands.report import write_report
from dfusion_core.commands.report.html import document, image, table
from dfusion_core.commands.report.methods import COLUMNS
from dfusion_core.commands.report.page import shown
from dfusion_core.errors import MissingStage, StoreError
from dfusion_core.evaluation.results import read_round_result
from dfusion_core.evaluation.sheets import grey
from dfusion_core.store.atomic import write_text
from dfusion_core.store.reading import read_stage

VOID = {"meta", "img"}


class Balanced(HTMLParser):
    """Fails where tags are not closed in order; collects every address that the page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """<circle/> opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page() -> str:
    write_report(Path("results/report.html"))
    return Path("results/report.html").read_text()


def test_the_page_is_whole_and_stands_alone(project: Path) -> None:
    parser = Balanced()
    parser.feed(page())
    assert parser.open == []
    assert parser.addresses and all(one.startswith("data:image/png;base64,") for one in parser.addresses)


def test_numbers_of_every_round_are_in_it(project: Path) -> None:
    found = page()
    for name in ("init", "r00", "r01"):
        assert f"{read_round_result(name)['train']['reward']['mean']:.4f}" in found
    assert "Not adopted" in found and "Adopted" in found and "sample.num_steps" in found


def test_maps_are_those_of_the_stores(project: Path) -> None:
    """Every item of the first pair's prompt at every timestep, then the mask; the largest value is white."""
    found = page()
    section = found[found.index("Cross-attention by timestep, r01"):found.index("<h2>Learning")]
    steps = read_stage("sample", "r01").array("cross_map").shape[1]
    captions = re.findall(r"<figcaption>(t = \d+)</figcaption>", section)
    names = re.findall("<h3>(.*?)</h3>", section)
    assert captions == [f"t = {t}" for t in range(steps, 0, -1)] * len(names)
    assert names == ["heart", "balloon", "mask"]
    drawn = grey(np.array([[[0.0, 0.5]], [[0.25, 0.0]]], np.float32))
    assert np.array(drawn)[..., 0].tolist() == [[[0, 255]], [[128, 0]]]


def test_the_grid_has_a_row_a_round_and_the_base_first(project: Path) -> None:
    page()
    grid = np.asarray(Image.open("results/report.png"))
    pictures = [read_stage("evaluate", name).rows("picture", [0])[0] for name in ("init", "r00", "r01")]
    height = pictures[0].shape[0]
    assert grid.shape[0] == 3 * (height + 2)
    for row, picture in enumerate(pictures):
        top = row * (height + 2)
        assert (grid[top:top + height, :height] == picture).all()


def test_the_table_of_a_study(project: Path) -> None:
    row = "dpo,all,test,reward,5,0.01,-0.02,0.03,0,0,0\nddpo,relation,test,reward,5,0.07,0,0.1,0,0,0\n"
    study = Path("found/mine")
    with pytest.raises(MissingStage, match="no gains.csv.*dfusion study table"):
        write_report(Path("results/report.html"), [study])
    write_text(study / "gains.csv", ",".join(COLUMNS) + "\n" + row)
    write_report(Path("results/report.html"), [study])
    found = Path("results/report.html").read_text()
    assert "Methods: mine" in found and "+0.0100 [-0.0200, +0.0300]\n+0.0000 [" in found and "+0.07" not in found
    write_text(study / "gains.csv", "method,group\ndpo,all\n")
    with pytest.raises(StoreError, match="no column 'split'"):
        write_report(Path("results/report.html"), [study])


def test_of_many_rounds_some_have_pictures(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And all of them are in the tables."""
    assert shown([f"r{n:02d}" for n in range(40)]) == ["r00", "r06", "r11", "r17", "r22", "r28", "r33", "r39"]
    monkeypatch.setattr("dfusion_core.commands.report.page.ROUNDS_SHOWN", 1)
    found = page()
    assert "Pairs of r00" in found and "Pairs of r01" not in found
    rows = re.findall(r"<tr><td>(\w+)</td>", found[found.index("Pairs, round by round"):found.index("Pairs of r00")])
    assert rows == ["r00", "r01"]


def test_a_large_picture_does_not_make_a_large_page() -> None:
    dice = np.random.default_rng(0)
    assert len(image(dice.integers(0, 256, (1024, 512, 3), np.uint8))) < 1.5 * 192 * 96 * 3
    small = dice.integers(0, 256, (16, 16, 3), np.uint8)
    encoded = re.search(r"base64,([^\"]+)", image(small))
    assert encoded
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded[1])))), small)


def test_prompts_are_escaped(project: Path) -> None:
    training = Path("runs/r00/adopt/training.csv")
    training.write_text(training.read_text().replace("a heart holding a balloon", "<script>alert(1)</script>"))
    reseal("adopt")
    found = page()
    assert "<script" not in found and "&lt;script&gt;alert(1)&lt;/script&gt;" in found


@pytest.mark.parametrize("pairs", ["naive", "same_noise"])
def test_runs_without_targets(project: Path, pairs: str) -> None:
    change(pairs=pairs)
    for round in ("r00", "r01"):
        for stage in ("fuse", "adopt"):
            forget(stage, round)
            run(stage, round)
    found = page()
    assert "reward\ngap" in found and "Not adopted" not in found


def test_a_missing_result_names_the_command(project: Path) -> None:
    Path("results/rounds/r01.json").unlink()
    with pytest.raises(MissingStage, match="dvc repro -s evaluate@r01"):
        page()


def test_ticks_are_round_and_cover() -> None:
    assert ticks(0.713, 0.768) == pytest.approx([0.70, 0.72, 0.74, 0.76, 0.78])
    assert ticks(0, 576) == [0, 200, 400, 600]
    assert len(ticks(3.0, 3.0)) >= 2


def test_a_chart_places_points_where_they_belong() -> None:
    """0..10 and 0..1 fill the plot: 400 wide from 70, 208 high from 12."""
    svg = chart([Line("a<b", [0, 10], [0, 1], [0, 0.5], [0.5, 1])], "x", "y")
    assert re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg) == [("70.0", "220.0"), ("470.0", "12.0")]
    assert "a&lt;b" in svg and chart([Line("none", [], [])], "x", "y") == ""


def test_cells_are_escaped() -> None:
    assert "<b>" not in table(["<b>"], [["<b>", 1, None]]) + document("<b>", [])
