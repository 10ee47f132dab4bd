"""`dfusion thresholds` in the tiny project: sampled, proposed, drawn, written, used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from steps import T, array, change, forget, policy_of, run
from typer.testing import CliRunner

from dfusion_core.attention.control import capturing
from dfusion_core.commands.cli import app
from dfusion_core.commands.thresholds.drawing import TILE
from dfusion_core.diffusion.ddim import step
from dfusion_core.diffusion.noise import image_seed, trajectory_noise
from dfusion_core.evaluation.sheets import GAP, TEXT
from dfusion_core.prompts.reading import load_prompts
from dfusion_core.store import read_stage

WORDS = ["a", "heart", "holding", "a", "balloon"]  # each one token; the start token is 0


def command(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["thresholds", *arguments])
    assert done.exit_code == code, done.output
    return done.output


def maps_by_hand(round: str, item: str, images: int) -> np.ndarray:
    """The item's maps at the fused steps t = 3, 2, 1 of the first prompt's images, one image at a time."""
    policy = policy_of(round)
    text = policy.embed([" ".join(WORDS)])
    kept = []
    for n in range(images):
        x, noise = trajectory_noise(image_seed(0, "thresholds", 0, n), policy.latent_shape, T)
        x = x[None]
        for i in range(T):
            with torch.no_grad(), capturing(policy.unet, "up_1") as tap:
                eps = policy.predict_noise(x, i, text)
            if i > 0:
                kept.append(tap.maps()[1, :, :, WORDS.index(item) + 1].numpy())
            x = step(policy.schedule, i, x, eps, noise[i][None])
    return np.stack(kept)


def best_threshold(values: np.ndarray) -> tuple[float, float]:
    """The two neighbouring values between which a cut leaves the least variance within the parts."""
    ordered = np.unique(values.astype(np.float64))

    def within(cut: float) -> float:
        low, high = values[values < cut].astype(np.float64), values[values >= cut].astype(np.float64)
        return len(low) * low.var() + len(high) * high.var()

    index = min(range(1, len(ordered)), key=lambda k: within(ordered[k]))
    return float(ordered[index - 1]), float(ordered[index])


def row_of(output: str, item: str) -> list[str]:
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if "│" in line]
    return next(row for row in rows if row[1] == item)


@pytest.mark.few(1)
@pytest.mark.parametrize("round", ["", "r00"])
def test_proposals_are_otsus_on_the_maps_of_eq_4(project: Path, round: str) -> None:
    output = command("--images", "3", "--limit", "1", *(["--round", round] if round else []))
    for item in ("heart", "balloon"):
        maps = maps_by_hand(round or "init", item, 3)
        low, high = best_threshold(maps)
        _, _, now, proposed, covers, separability, relative = row_of(output, item)
        threshold = (low + high) / 2
        assert now == "0.05" and proposed == f"{float(f'{threshold:.3g}'):g}"
        per_image = (maps >= float(proposed)).reshape(3, -1).mean(axis=1)
        assert covers == f"{per_image.mean():.0%} ({per_image.min():.0%} to {per_image.max():.0%})"
        assert relative == f"{float(f'{maps.mean():.3g}'):g}"
        parts = np.where(maps >= threshold, maps[maps >= threshold].mean(), maps[maps < threshold].mean())
        assert float(separability) == pytest.approx(parts.var() / maps.var(), abs=0.006)
    assert "1 prompts, 3 images of each" in output


def test_the_sheet(project: Path) -> None:
    command("--images", "5", "--sheet", "out/look.png")
    picture = Image.open("out/look.png")
    top = 2 * (TEXT + GAP)  # a title and labels
    assert picture.size == (4 * 3 * (TILE + GAP) - GAP, 3 * (top + TILE + GAP) - GAP)  # two items and one
    tile = [np.asarray(picture)[top : top + TILE, k * (TILE + GAP) : k * (TILE + GAP) + TILE] for k in range(3)]
    assert all(len(np.unique(one)) > 20 for one in tile)
    brightness = tile[2].sum(axis=-1) / np.maximum(tile[0].sum(axis=-1), 1)
    assert brightness.min() == pytest.approx(0.2, abs=0.02) and brightness.max() == pytest.approx(1, abs=0.02)


def test_without_write_nothing_is_written(project: Path) -> None:
    before = Path("prompts.yaml").read_bytes()
    output = command("--images", "1")
    assert "Nothing was written; --write puts the proposed thresholds into prompts.yaml." in output
    assert "extract.threshold: relative, which does not read them" in output
    assert Path("prompts.yaml").read_bytes() == before
    assert Path("results/thresholds.png").exists()


def test_what_was_written_is_what_extract_uses(project: Path) -> None:
    Path("prompts.yaml").write_text(
        "# kept\ntrain:\n- a [heart] holding a [balloon]  # two\n- a blue and dotted [square]\n"
        "test:\n- the star above the moon\n"
    )
    change(extract={"threshold": "absolute"})
    output = command("--write")
    assert "Written into prompts.yaml" in output and "which does not read them" not in output
    prompts = load_prompts("prompts.yaml").train
    assert prompts[0].thresholds == tuple(float(row_of(output, item)[3]) for item in prompts[0].items)
    assert Path("prompts.yaml").read_text().startswith('# kept\ntrain:\n- {prompt: "a [heart] holding a [balloon]", ')
    forget("extract")
    for stage in ("sample", "score", "extract"):
        run(stage)
    references = read_stage("extract", "r00").table("references")
    maps, masks = array("sample", "cross_map").numpy()[references.image], array("extract", "item_mask").numpy()
    for row, prompt_id in enumerate(references.prompt_id):
        for item, threshold in enumerate(prompts[prompt_id].thresholds or ()):
            expected = maps[row, :, item] >= np.float32(threshold)
            np.testing.assert_array_equal(masks[row, :, item], expected)
            assert 0 < expected.mean() < 1


def test_limit_and_a_file_of_its_own(project: Path) -> None:
    Path("mine.yaml").write_text("- a [heart]\n- the [star] above the [moon]\n")
    before = Path("prompts.yaml").read_bytes()
    output = command("--prompts", "mine.yaml", "--limit", "1", "--images", "1", "--write")
    assert "Written into mine.yaml" in output
    first, second = load_prompts("mine.yaml").train
    assert first.thresholds is not None and second.thresholds is None
    assert Path("prompts.yaml").read_bytes() == before


def test_as_many_prompts_as_are_trained_on(project: Path) -> None:
    change(prompts={"train_count": 1})
    assert "1 prompts, 1 images of each" in command("--images", "1")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("--round", "r07"),
            1,
            "error: thresholds: there is no runs/r07/train/adapter. Make it with 'dvc repro -s train@r07'.",
        ),
        (("--prompts", "none.yaml"), 1, "error: prompts: there is no file none.yaml."),
        (("--prompts", "dfusion_core/prompts/micro_relation.yaml", "--write"), 1, "is a file of the installed package"),
        (("--sheet", "look.jpg"), 2, "the name must end in .png"),
        (("--images", "0"), 2, "--images"),
    ],
)
def test_refused_before_anything_is_sampled(
    project: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, message: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    change(model={"id": "no-such-model"})  # loading it would be another error
    assert message in command(*arguments, code=code)


def test_a_file_that_cannot_be_edited_is_refused_first(project: Path) -> None:
    change(model={"id": "no-such-model"})
    entry: dict[str, Any] = {"prompt": "a heart", "items": ["heart"], "thresholds": [0.1]}
    text = yaml.safe_dump([entry, {**entry, "prompt": "the heart"}])
    assert "&id" in text
    Path("prompts.yaml").write_text(text)
    assert "cannot be edited in its place" in command("--write", code=1)
    assert Path("prompts.yaml").read_text() == text
