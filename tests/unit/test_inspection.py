"""dfusion inspect, verify and params."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dfusion_core.commands.cli import app
from dfusion_core.evaluation.sheets import GAP, TEXT
from dfusion_core.store import open_stage

T = 3
TEXT_ROW = TEXT + GAP


@pytest.fixture
def published(workspace: Path) -> Path:
    with open_stage("sample", round="r00") as run:
        for rows in run.unfinished(10, 4):
            n = len(rows)
            run.write(
                rows,
                x=np.linspace(-1, 2, n * 4 * 2 * 16, dtype=np.float32).reshape(n, T + 1, 2, 4, 4),
                cross_map=np.full((n, T, 2, 8, 8), 0.25),
                log_prob=np.full((n, T), 0.5),
                picture=np.full((n, 80, 80, 3), 7, np.uint8),
            )
        ten = {name: range(10) for name in ("image", "sample", "seed")}
        run.write_table("images", pd.DataFrame({**ten, "prompt_id": 0, "prompt": "a cat"}))
        run.path("adapter/w.bin").write_bytes(b"0" * 10)
    with open_stage("extract", round="r00") as run:
        for rows in run.unfinished(5, 4):
            run.write(rows, mask=np.eye(8, dtype=bool)[None, None].repeat(len(rows), 0).repeat(T, 1))
        run.write_table(
            "references",
            pd.DataFrame(
                {
                    "reference": range(5),
                    "image": range(5),
                    "prompt_id": 0,
                    "prompt": "a cat",
                    "seed": range(5),
                    "empty_mask": False,
                }
            ),
        )
    return workspace


def dfusion(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.mark.few(1)
@pytest.mark.parametrize("path", ["r00/sample", "runs/r00/sample", "runs/r00/sample/arrays.zarr"])
def test_a_tree_shows_dimensions_types_units_and_values(published: Path, path: str) -> None:
    lines = dfusion("inspect", path).output
    line = next(line for line in lines.splitlines() if "log_prob" in line)
    assert "log_prob (image 10, i 3)  float32  [nats per latent element (mean)]" in line
    assert line.endswith("0.00 MiB  min 0.5  mean 0.5  max 0.5")
    assert "images.csv  10 rows: image, sample, seed, prompt_id, prompt" in lines
    assert "adapter/w.bin" in lines


@pytest.mark.few(1)
@pytest.mark.parametrize("path", ["r00/sample/x", "runs/r00/sample/arrays.zarr/x", "r00/sample/arrays.zarr/x"])
def test_one_array(published: Path, path: str) -> None:
    lines = dfusion("inspect", path).output
    assert "x (image 10, state 4, channel 2, height 4, width 4)" in lines
    assert "log_prob" not in lines


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("path", "name", "rows", "size"),
    [
        ("r00/sample", "picture", "0:10", (8 * 164 - 4, 2 * (160 + 2 * TEXT_ROW) + 4)),  # image and prompt above each
        ("r00/sample", "x", "0:3", (4 * 68 - 4, 3 * (64 + 2 * TEXT_ROW) + 2 * 4)),
        ("r00/sample", "cross_map", "2", (3 * 68 - 4, 2 * (64 + 2 * TEXT_ROW) + 4)),  # two items
        ("r00/extract", "", "0:8", (4 * 84 - 4, 5 * (80 + 2 * TEXT_ROW) + 4 * 4)),  # the picture, and over it T masks
    ],
)
def test_sheets(published: Path, path: str, name: str, rows: str, size: tuple[int, int]) -> None:
    result = dfusion("inspect", path, "--picture", "out.png", "--array", name, "--rows", rows)
    assert result.exit_code == 0, result.output
    assert Image.open("out.png").size == size


def test_a_mask_lies_over_its_reference(published: Path) -> None:
    """And is black and white where the pictures are not there."""
    dfusion("inspect", "r00/extract/mask", "--picture", "out.png", "--rows", "0")
    first, second = (np.asarray(Image.open("out.png"))[2 * TEXT_ROW :, k * 84 : k * 84 + 80] for k in (0, 1))
    assert (first == 7).all()
    inside = np.eye(8, dtype=bool).repeat(10, 0).repeat(10, 1)
    assert (second[~inside] == 7).all() and (second[inside] == second[0, 0]).all() and second[0, 0, 0] > 100
    shutil.rmtree("runs/r00/sample")
    dfusion("inspect", "r00/extract/mask", "--picture", "out.png", "--rows", "0")
    tile = np.asarray(Image.open("out.png"))[2 * TEXT_ROW :, :64, 0]
    np.testing.assert_array_equal(tile[::8, ::8], np.eye(8) * 255)


def test_nothing_is_published(workspace: Path) -> None:
    """Case 29: one line with the next command."""
    result = dfusion("inspect", "r00/sample")
    assert result.exit_code == 1 and len(result.output.strip().splitlines()) == 1
    assert "dvc repro" in result.output and "r00/sample" in result.output


def test_control_characters_are_escaped(published: Path) -> None:
    """Case 28: in names of files, of columns, and in the problems that verify prints."""
    with open_stage("evaluate", round="r00") as run:
        run.path("a\x1b[2Jb\nc.bin").write_bytes(b"1")
        run.write_table("t", pd.DataFrame({"col\x1b]0;x\x07": [1]}))
    shown = dfusion("inspect", "r00/evaluate").output
    assert "\x1b" not in shown and "\x07" not in shown
    assert "a\\x1b[2Jb\\nc.bin" in shown and "col\\x1b]0;x\\x07" in shown
    Path("runs/r00/evaluate/a\x1b[2Jb\nc.bin").write_bytes(b"22")
    done = dfusion("verify", "runs")
    assert done.exit_code == 1 and "\x1b" not in done.output and "a\\x1b[2Jb\\nc.bin" in done.output


def test_commands_work_in_subfolders(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of outputs are the same everywhere in the project; typed paths begin at the current folder."""
    Path("params.yaml").write_text("seed: 7\n")
    Path("docs/notes").mkdir(parents=True)
    here = dfusion("inspect", "r00/sample").output
    for folder in ("docs/notes", "runs", "runs/r00"):
        monkeypatch.chdir(published / folder)
        assert dfusion("inspect", "r00/sample").output == here
        assert Path.cwd() == published / folder
    assert dfusion("inspect", "sample").output == here  # in runs/r00
    monkeypatch.chdir(published / "docs")
    assert dfusion("inspect", "r00/sample/x", "--picture", "x.png").exit_code == 0
    assert (published / "docs/x.png").is_file()
    line = next(line for line in dfusion("params").output.splitlines() if line.strip().startswith("seed"))
    assert line.split()[1] == "7"
    assert dfusion("verify", "../runs").output == "2 folders checked, 0 problems.\n"
    assert "no parameters.yaml" in dfusion("doctor", "--params", "parameters.yaml").output.replace("docs/", "")


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("arguments", "expected", "code"),
    [
        (["r00/smple"], "Did you mean 'r00/sample'?", 1),
        (["r00/sample/lg_prob"], "it has cross_map, log_prob, picture, x. Did you mean 'log_prob'?", 1),
        (["r00/sample", "--picture", "a.png"], "Choose one with --array NAME.", 1),
        (["r00/sample", "--picture", "a.png", "--array", "log_prob"], "is not a picture", 1),
        (["r00/sample", "--picture", "a.png", "--array", "x", "--rows", "20:"], "there are no such rows", 1),
        (["r00/sample", "--picture", "a.png", "--array", "x", "--rows", "a"], "rows are given as", 2),
        (["r00/sample", "--picture", "a.gif", "--array", "x"], "must end in .png", 2),
    ],
)
def test_mistakes_say_what_there_is(published: Path, arguments: list[str], expected: str, code: int) -> None:
    result = dfusion("inspect", *arguments)
    assert expected in " ".join(result.output.split())
    assert result.exit_code == code


def test_verify(published: Path) -> None:
    assert dfusion("verify", "runs").output == "2 folders checked, 0 problems.\n"
    Path("runs/r00/sample/images.csv").write_text("changed")
    result = dfusion("verify", "r00/sample", "r00/extract")
    assert result.exit_code == 1
    assert "runs/r00/sample images.csv: has 7 bytes" in result.output


def test_params_and_version(workspace: Path) -> None:
    assert "Run the command in the folder" in dfusion("params").output
    Path("params.yaml").write_text("seed: 7\n")
    result = dfusion("params")
    line = next(line for line in result.output.splitlines() if line.strip().startswith("seed"))
    assert line.split()[:4] == ["seed", "7", "0", "ours"]
    assert dfusion("--version").output == "dfusion 0.1.0\n"
