"""dfusion picture: pairs of the last round, then the same seeds by base and rounds, as the stores have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from typer.testing import CliRunner

from dfusion_core.commands.cli import app
from dfusion_core.commands.picture import extremes, pair_lines, seed_lines
from dfusion_core.commands.report.run import read_run
from dfusion_core.store.reading import read_stage


def test_lines_are_those_of_the_stores(project: Path) -> None:
    (line, *_) = seed_lines(read_run(), 4)
    before, after = (read_stage("evaluate", name).table("images") for name in ("init", "r01"))
    test = before[before.split == "test"]
    row = test.iloc[(after.reward - before.reward)[test.index].argmax()]
    assert line.title == f"{row.prompt} (gained most)"
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
    assert Image.open("results/picture.png").size[0] > one[0]


def test_without_a_run(workspace: Path) -> None:
    done = CliRunner().invoke(app, ["picture"])
    assert done.exit_code == 1 and not Path("results").exists()


def test_extremes_are_of_different_prompts() -> None:
    images = pd.DataFrame({"prompt": list("aabbcc"), "gain": [5, 1, 4, -9, 0, -2]})
    assert extremes(images, 2).gain.tolist() == [5, -9]
    assert extremes(images, 3).gain.tolist() == [5, 4, -2]
    assert extremes(images, 9).gain.tolist() == [5, 4, 0]
