"""dfusion picture: pairs of the last round, then the same seeds by base and rounds, as the stores have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from dfusion_core.commands.cli import app
from dfusion_core.commands.picture import pair_lines, seed_lines
from dfusion_core.commands.report.run import read_run
from dfusion_core.store.reading import read_stage


def test_lines_are_those_of_the_stores(project: Path) -> None:
    (line, *_) = seed_lines(read_run(), 4)
    images = read_stage("evaluate", "init").table("images")
    row = images[(images.split == "test") & (images["sample"] == 0)].iloc[0]
    assert line.title == row.prompt
    for tile, name in zip(line.tiles, ("init", "r00", "r01"), strict=True):
        assert (tile.picture == read_stage("evaluate", name).rows("picture", [row.image])[0]).all()
    targets = read_stage("adopt", "r01").table("targets")
    for line in pair_lines("r01", 2):
        assert [tile.label.split()[0] for tile in line.tiles] == ["reference", "base", "target"]
        score = float(line.tiles[2].label.split()[1])
        assert np.isclose(targets.target_reward, score, atol=5e-4).any()


def test_the_command(project: Path) -> None:
    done = CliRunner().invoke(app, ["picture", "--out", "seen.png", "--pairs", "0", "--prompts", "1"])
    assert done.exit_code == 0 and "seen.png" in done.output
    one = Image.open("seen.png").size
    CliRunner().invoke(app, ["picture"])
    assert Image.open("results/picture.png").size[1] > one[1]


def test_without_a_run(workspace: Path) -> None:
    done = CliRunner().invoke(app, ["picture"])
    assert done.exit_code == 1 and not Path("results").exists()
