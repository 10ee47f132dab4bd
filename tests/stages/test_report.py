"""dfusion report: the page of the tiny run holds its numbers and pictures, loads nothing, escapes prompts."""

from __future__ import annotations

import base64
import builtins
import io
import json
import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from steps import change, forget, reseal, run

from dfusion_core.commands import figures
from dfusion_core.commands.report import write_report
from dfusion_core.commands.report.html import Number, document, image, table
from dfusion_core.commands.report.methods import COLUMNS
from dfusion_core.commands.report.run import read_run
from dfusion_core.commands.report.samples import PAIRS_SHOWN, spread
from dfusion_core.commands.report.terms import ALGORITHMS, CONSTRUCTIONS, PAIRS, UPDATES
from dfusion_core.errors import MissingStage, RewardError, StoreError
from dfusion_core.evaluation.results import read_results
from dfusion_core.evaluation.sheets import GAP, TEXT, grey
from dfusion_core.params.sections import Algo, Pairs
from dfusion_core.store.atomic import write_text
from dfusion_core.store.reading import read_stage
from dfusion_core.testing import tiny_clip

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
    for splits in read_results(["r00", "r01"]).rounds.values():
        for measure in ("reward", "diversity"):
            assert f"{splits['train'][measure]['mean']:.4f}" in found
    assert "Not adopted" in found and "Adopted" in found and "sample.num_steps" in found
    assert '<meta name="viewport" content="width=device-width' in found and found.count("<svg") == 3


def test_maps_are_those_of_the_stores(project: Path) -> None:
    """Every item of the first pair's prompt at every timestep, then the mask; the largest value is white."""
    found = page()
    section = found[found.index("Cross-attention by timestep, r01") : found.index("<h2>Learning")]
    steps = read_stage("sample", "r01").array("cross_map").shape[1]
    captions = re.findall(r"<figcaption>(t = \d+)</figcaption>", section)
    names = re.findall("<h3>(.*?)</h3>", section)
    assert captions == [f"t = {t}" for t in range(steps, 0, -1)] * len(names) and steps > 1
    assert names == ["heart", "balloon", "mask"]
    drawn = grey(np.array([[[0.0, 0.5]], [[0.25, 0.0]]], np.float32))
    assert np.array(drawn)[..., 0].tolist() == [[[0, 255]], [[128, 0]]]


def test_the_sheet_has_a_line_a_round_and_the_base_first(project: Path) -> None:
    page()
    sheet = np.asarray(Image.open("results/report.png"))
    pictures = [read_stage("evaluate", name).rows("picture", [0])[0] for name in ("init", "r00", "r01")]
    text, side = 2 * (TEXT + GAP), 64
    assert sheet.shape[0] == 3 * (text + side + GAP) - GAP
    for row, picture in enumerate(pictures):
        top = row * (text + side + GAP) + text
        assert (sheet[top : top + side : 4, :side:4] == picture).all()


@pytest.mark.slow
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


@pytest.mark.slow
def test_of_many_rounds_some_have_pictures(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And all of them are in the tables."""
    monkeypatch.setattr("dfusion_core.commands.report.run.ROUNDS_SHOWN", 1)
    found = page()
    assert "Pairs of r00" in found and "Pairs of r01" not in found
    rows = re.findall(r"<tr><td>(r\d+)</td>", found[found.index("Pairs, round by round") : found.index("Pairs of r00")])
    assert rows == ["r00", "r01"]
    monkeypatch.setattr("dfusion_core.commands.report.run.ROUNDS_SHOWN", 8)
    run = read_run()
    many = run.__class__([f"r{n:02d}" for n in range(40)], [], {}, run.results, [])
    assert many.shown == ["r00", "r06", "r11", "r17", "r22", "r28", "r33", "r39"]


def test_it_describes_the_run_and_not_todays_parameters(project: Path) -> None:
    """Case A5: what params.yaml says now is named as different, and nowhere taken for what was run."""
    change(seed=7, algo="ddpo", train={"learning_rate": 0.5})
    found = page()
    assert "<h1>D-Fusion run: dpo on dfusion pairs, 2 rounds, seed 0</h1>" in found
    warned = re.search(r'<p class="warning">(.*?)</p>', found)
    assert warned and all(key in warned[1] for key in ("algo", "seed", "train.learning_rate"))
    assert "<td>train.learning_rate</td><td>0.001</td><td>0.5</td>" in found
    change()
    assert 'class="warning"' not in page()


@pytest.mark.slow
def test_outputs_of_different_parameters(project: Path) -> None:
    """A round that was made with another value: both are there, with the outputs that have them."""
    change(extract={"relative_threshold": 1.5})
    run("extract", "r01")
    change()
    value = next(one for one in read_run().parameters if one.row.key == "extract.relative_threshold")
    assert value.values == [(1.0, ["r00/extract"]), (1.5, ["r01/extract"])] and value.differs_today
    assert "1.0 (r00/extract); 1.5 (r01/extract)" in page()


def test_versions_and_code(project: Path) -> None:
    """A digest of each stage's code, the version of this package, the models that scored."""
    found = page()
    assert f"dfusion {read_stage('train', 'r01').manifest['environment']['dfusion']}" in found
    assert read_run().reward in found
    rows = re.findall(r"<tr><td>(\w+)</td><td>([0-9a-f]{16})</td><td>([0-9a-f]{16})</td></tr>", found)
    assert [row[0] for row in rows] == ["sample", "score", "extract", "fuse", "adopt", "train", "evaluate"]
    assert len({row[1] for row in rows}) == 7
    assert rows[5][2] == read_stage("train", "r01").manifest["fingerprint"][:16]


def test_rounds_that_are_not_finished(project: Path) -> None:
    change(rounds={"r00": {"prev": "init"}, "r01": {"prev": "r00"}, "r02": {"prev": "r01"}})
    found = page()
    assert "r02" in found[found.index("Not finished") : found.index("Not finished") + 80] and "2 rounds" in found
    for round in ("r00", "r01"):
        forget("evaluate", round)
    with pytest.raises(MissingStage, match="dvc repro"):
        page()


def test_the_way_to_the_last_round(project: Path) -> None:
    """Another round that started from the same one is not counted."""
    run_ = replace(read_run(), rounds=["r00", "r01", "r02"], previous={"r00": "init", "r01": "r00", "r02": "r00"})
    assert run_.way == ["r00", "r02"] and read_run().way == ["r00", "r01"]


@pytest.mark.slow
def test_rounds_of_two_rewards_are_refused(project: Path) -> None:
    tiny_clip(Path("clip"), seed=1)
    for round in ("init", "r00"):
        forget("evaluate", round)
        run("evaluate", round)
    with pytest.raises(RewardError, match="dvc repro -f -s evaluate_base evaluate@r00"):
        page()


def test_every_quantity_is_explained(project: Path) -> None:
    """Each figure of the pairs and each column of the optimizer steps has its meaning beside it."""
    found = page()
    for round in ("r00", "r01"):
        assert json.loads(Path(f"results/pairs/{round}.json").read_text()).keys() <= PAIRS.keys()
    assert {*read_stage("train", "r00").table("updates")} - {"update"} <= UPDATES.keys()
    assert {*read_stage("train", "r00").table("timesteps")} - {"update", "t"} <= UPDATES.keys()
    for name in ("reference lead", "fresh gain", "implicit accuracy", "winner drift"):
        assert re.search(rf'<td class="term">{name}<small>[^<]{{20,}}</small>', found)


def test_samples_are_of_different_prompts() -> None:
    many = pd.DataFrame({"pair": range(40), "prompt_id": [n // 4 for n in range(40)]})
    assert spread(many, PAIRS_SHOWN).pair.tolist() == [0, 12, 24, 36]
    few = pd.DataFrame({"pair": range(6), "prompt_id": [0, 0, 0, 0, 1, 1]})
    assert spread(few, PAIRS_SHOWN).pair.tolist() == [0, 4, 1, 5]
    assert spread(many.head(2), PAIRS_SHOWN).pair.tolist() == [0, 1]


def test_a_large_picture_does_not_make_a_large_page() -> None:
    dice = np.random.default_rng(0)
    assert len(image(dice.integers(0, 256, (1024, 512, 3), np.uint8))) < 1.5 * 224 * 112 * 3
    small = dice.integers(0, 256, (16, 16, 3), np.uint8)
    encoded = re.search(r"base64,([^\"]+)", image(small))
    assert encoded
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded[1])))), small)


@pytest.mark.slow
def test_prompts_are_escaped(project: Path) -> None:
    pairs = Path("runs/r00/extract/pairs.csv")
    pairs.write_text(pairs.read_text().replace("a heart holding a balloon", "<script>alert(1)</script>"))
    reseal("extract")
    found = page()
    assert "<script" not in found and "&lt;script&gt;alert(1)&lt;/script&gt;" in found


@pytest.mark.slow
@pytest.mark.parametrize("pairs", ["naive", "same_noise"])
def test_runs_without_targets(project: Path, pairs: str) -> None:
    change(pairs=pairs)
    for round in ("r00", "r01"):
        for stage in ("fuse", "adopt"):
            forget(stage, round)
            run(stage, round)
    found = page()
    assert "reward gap" in found and "Not adopted" not in found


def test_a_missing_result_names_the_command(project: Path) -> None:
    Path("results/rounds/r01.json").unlink()
    with pytest.raises(MissingStage, match="dvc repro -s evaluate@r01"):
        page()


def test_a_chart_is_svg_in_the_pages_colours() -> None:
    """Points are where they belong: 0 and 10 at the ends, the middle between; texts are texts, and escaped."""
    x, y = pd.Series([0.0, 5.0, 10.0]), pd.Series([0.0, 0.5, 1.0])
    svg = figures.line_chart({"a<b $x$": {"x": x, "y": y, "low": y - 0.1, "high": y + 0.1}}, "images", "reward")
    assert svg.startswith("<svg") and "viewBox" in svg and "a&lt;b $x$" in svg and "images" in svg
    assert (
        "currentColor" in svg
        and figures.INK not in svg
        and "<metadata" not in svg
        and "http://" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", svg)
    )
    curves = [re.findall(r"[ML] ([\d.]+) ([\d.]+)", d) for d in re.findall(r'<path d="([^"]*)" clip-path', svg)]
    left, middle, right = next([(float(x), float(y)) for x, y in one] for one in curves if len(one) == 3)
    assert middle == pytest.approx(((left[0] + right[0]) / 2, (left[1] + right[1]) / 2), abs=0.01)
    assert left[0] < right[0] and left[1] > right[1]
    again = figures.line_chart({"a": {"x": x, "y": y}}, "x", "y")
    assert again == figures.line_chart({"a": {"x": x, "y": y}}, "x", "y")  # the same bytes
    assert figures.line_chart({"none": {"x": x[:0], "y": y[:0]}}, "x", "y") == ""


def test_without_matplotlib_there_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(figures.FigureError, match="matplotlib is not installed. pip install 'matplotlib"):
        page()
    run("summary")  # the table needs none


def test_cells_are_escaped() -> None:
    assert "<b>" not in table(["<b>"], [["<b>", 1, None]]) + document("<b>", [])


def test_every_measure_and_kind_is_explained_where_it_stands(project: Path) -> None:
    found = page()
    results = found[found.index("<h2>Results") : found.index("<h2>Alignment")]
    columns = re.findall(r"<th>(.*?)</th>", results[: results.index("</thead>")])[1:]
    named = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", results)
    assert [name for name, _ in named] == columns and all(len(meaning) > 20 for _, meaning in named)
    head = found[: found.index("<h2>")]
    assert ALGORITHMS["dpo"].partition(":")[2] in head and CONSTRUCTIONS["dfusion"].partition(":")[2] in head
    assert set(ALGORITHMS) == set(get_args(Algo)) and set(CONSTRUCTIONS) == set(get_args(Pairs))


def test_numbers_stay_in_one_line() -> None:
    """A narrow screen breaks long words; in a number that would be another number."""
    found = table(["a", "b", "c"], [[Number("0.000207"), 0.5, "r00"]])
    assert found.count('<td class="number">') == 2 and "<td>r00</td>" in found


@pytest.mark.slow
def test_it_says_which_commit_records_the_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of dvc.lock, as long as dvc.lock is what was committed."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(project.parent))
    assert "recorded in git" not in page()
    Path("dvc.lock").write_text("schema: '2.0'\n")
    assert "recorded in git" not in page()
    who = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    for arguments in (["init", "-q"], ["add", "dvc.lock"]):
        subprocess.run(["git", *arguments], check=True)
    assert "git add dvc.lock" in page()
    subprocess.run(["git", *who, "commit", "-q", "-m", "run"], check=True)
    number = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert f"<td>{number.strip()} of " in page()
    Path("dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    assert "git add dvc.lock" in page()
