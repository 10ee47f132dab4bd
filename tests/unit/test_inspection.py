"""dfusion inspect, verify and params."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dfusion_core.commands.cli import app
from dfusion_core.store import open_stage

T = 3


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
    return workspace


def dfusion(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize("path", ["r00/sample", "runs/r00/sample", "runs/r00/sample/arrays.zarr"])
def test_a_tree_shows_dimensions_types_units_and_values(published: Path, path: str) -> None:
    lines = dfusion("inspect", path).output
    line = next(line for line in lines.splitlines() if "log_prob" in line)
    assert "log_prob (image 10, i 3)  float32  [nats per latent element (mean)]" in line
    assert line.endswith("0.00 MiB  min 0.5  mean 0.5  max 0.5")
    assert "images.csv  10 rows: image, sample, seed, prompt_id, prompt" in lines
    assert "adapter/w.bin" in lines


@pytest.mark.parametrize(
    "path", ["r00/sample/x", "runs/r00/sample/arrays.zarr/x", "r00/sample/arrays.zarr/x"]
)
def test_one_array(published: Path, path: str) -> None:
    lines = dfusion("inspect", path).output
    assert "x (image 10, state 4, channel 2, height 4, width 4)" in lines
    assert "log_prob" not in lines


@pytest.mark.parametrize(
    ("path", "name", "rows", "size"),
    [
        ("r00/sample", "picture", "0:10", (8 * 82 - 2, 2 * 82 - 2)),
        ("r00/sample", "x", "0:3", (4 * 66 - 2, 3 * 66 - 2)),
        ("r00/sample", "cross_map", "2", (3 * 66 - 2, 2 * 66 - 2)),
        ("r00/extract", "", "0:8", (3 * 66 - 2, 5 * 66 - 2)),
    ],
)
def test_contact_sheets(published: Path, path: str, name: str, rows: str, size: tuple[int, int]) -> None:
    result = dfusion("inspect", path, "--picture", "out.png", "--array", name, "--rows", rows)
    assert result.exit_code == 0, result.output
    assert Image.open("out.png").size == size


def test_a_mask_is_black_and_white(published: Path) -> None:
    dfusion("inspect", "r00/extract/mask", "--picture", "out.png", "--rows", "0")
    tile = np.asarray(Image.open("out.png"))[:64, :64, 0]
    np.testing.assert_array_equal(tile[::8, ::8], np.eye(8) * 255)


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
