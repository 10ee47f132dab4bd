"""The attention study on a finished tiny project."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dfusion_core.commands.study.attention import figures, layer_sets, load_setting, study_attention, targets, windows
from dfusion_core.commands.study.variants import VARIANTS
from dfusion_core.store import read_stage


def test_tables_and_pictures(project: Path) -> None:
    tables = study_attention("r00", 3, project / "out")
    assert tables["control"].variant.tolist() == list(VARIANTS)
    assert len(tables["layers"]) == 5 * len(windows(4))
    for name in ("control", "layers"):
        saved = pd.read_csv(project / "out" / f"{name}.csv")
        pd.testing.assert_frame_equal(saved, tables[name].round(4))
    for name in ("control.png", "layers.png", "heatmaps.png"):
        picture = np.asarray(Image.open(project / "out" / name))
        assert picture.ndim == 3 and len(np.unique(picture)) > 20


def test_dfusion_on_the_pipelines_settings_is_what_the_pipeline_made(project: Path) -> None:
    s = load_setting("r00", 4)
    fuse = s.params.fuse
    found = targets(s, layer_sets(s.policy.unet)["mid and up"], fuse.first_t, fuse.last_t)
    made = read_stage("fuse", "r00").rows("picture", s.pairs.pair)
    assert np.abs(found.astype(int) - made).max() <= 1


def test_figures_of_known_pictures(project: Path) -> None:
    s = load_setting("r00", 2)
    same = figures(s, s.base)
    assert same["from_base"] == same["from_base_outside"] == 0
    assert same["target_gain"] == pytest.approx(0, abs=1e-5)
    assert figures(s, s.reference)["target_gain"] == pytest.approx(same["reference_lead"], abs=1e-5)
