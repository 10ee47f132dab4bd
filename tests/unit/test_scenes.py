"""Checks of the micro-world: grammar, labels, masks, drawing and prompt lists."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

import dfusion_core.microworld
from dfusion_core.microworld import grammar, scenes
from dfusion_core.microworld import prompts as prompts_module
from dfusion_core.microworld.composition import COMPOSITIONS, TYPICAL_SHAPE
from dfusion_core.microworld.drawing import draw, object_masks
from dfusion_core.microworld.prompts import items, prompt_lists, write_prompt_files

PROMPT_FOLDER = Path(dfusion_core.microworld.__file__).parents[1] / "prompts"
EVERY_PROMPT = [prompt for template in grammar.TEMPLATES for prompt in grammar.all_prompts(template)]


def rng(seed: int = 0) -> np.random.Generator:
    """A fresh generator."""
    return np.random.default_rng(seed)


@pytest.mark.parametrize("template", grammar.TEMPLATES)
def test_same_seed_same_pixels(template: str) -> None:
    """Sampling and drawing are deterministic, and another seed gives another picture."""
    first, again, other = (scenes.random_scene(rng(s), template) for s in (3, 3, 4))
    assert first == again and first != other
    picture = draw(first)
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert np.array_equal(picture, draw(again)) and not np.array_equal(picture, draw(other))


def test_prompt_counts_and_round_trip() -> None:
    """The grammar has 80 + 240 + 224 prompts, each drawn by a scene with that caption."""
    assert [len(grammar.all_prompts(t)) for t in grammar.TEMPLATES] == [80, 240, 224]
    assert len(set(EVERY_PROMPT)) == 544
    for prompt in EVERY_PROMPT:
        assert scenes.caption(scenes.scene_for_prompt(prompt, rng())) == prompt
    assert "a heart holding an umbrella" in EVERY_PROMPT and "a blue and dotted square" in EVERY_PROMPT


def test_labels_agree_with_expected() -> None:
    """A scene of a prompt has the labels the prompt expects, in range, and -1 for all other heads."""
    for prompt in EVERY_PROMPT:
        found, wanted = scenes.labels(scenes.scene_for_prompt(prompt, rng())), grammar.expected(prompt)
        assert set(found) == set(grammar.HEADS)
        for head, value in found.items():
            assert value == wanted.get(head, -1) and value < grammar.HEADS[head]


def test_relation_labels_follow_the_picture() -> None:
    """Both captions of one picture expect the same labels; shape_a is drawn above or left of shape_b."""
    for prompt in grammar.all_prompts("relation"):
        twin = grammar.equivalent(prompt)
        assert grammar.equivalent(twin) == prompt and grammar.expected(twin) == grammar.expected(prompt)
        wanted = grammar.expected(prompt)
        masks = object_masks(scenes.scene_for_prompt(prompt, rng(1)))
        a, b = (np.argwhere(masks[grammar.SHAPES[wanted[head]]]) for head in ("shape_a", "shape_b"))
        across = 0 if wanted["axis"] == 1 else 1
        assert a[:, across].max() < b[:, across].min()
    assert grammar.equivalent("a heart holding a balloon") is None


def test_near_misses() -> None:
    """Near misses are prompts of the same template with other expected labels."""
    for prompt in EVERY_PROMPT:
        for miss in grammar.near_misses(prompt):
            assert grammar.parse(miss).template == grammar.parse(prompt).template
            assert grammar.expected(miss) != grammar.expected(prompt)
    counts = [len(grammar.near_misses(grammar.all_prompts(t)[0])) for t in grammar.TEMPLATES]
    assert counts == [7 + 9, 5 + 4 + 7, 6 + 6 + 3 + 1]
    misses = grammar.near_misses("the star above the circle")
    assert "the circle above the star" in misses and "the circle below the star" not in misses


@pytest.mark.few(2)
@pytest.mark.parametrize("composition", COMPOSITIONS)
@pytest.mark.parametrize("seed", range(3))
def test_masks_are_visible_inside_and_apart(seed: int, composition: str) -> None:
    """Every named object covers enough pixels, keeps off the border and shares no pixel."""
    for prompt in EVERY_PROMPT:
        masks = object_masks(scenes.scene_for_prompt(prompt, rng(seed), COMPOSITIONS[composition]))
        assert list(masks) == items(prompt)
        together = np.sum(list(masks.values()), axis=0)
        assert together.max() == 1
        assert together[1:-1, 1:-1].sum() == together.sum()
        assert all(mask.sum() >= 50 for mask in masks.values()), prompt


def test_conventional_pictures_agree_and_scattered_ones_do_not() -> None:
    """Two pictures of a prompt: how much their objects overlap, |A and B| / |A or B| over all items."""
    found = {}
    for name, how in COMPOSITIONS.items():
        overlap = []
        for k, prompt in enumerate(EVERY_PROMPT[::7]):
            drawn = (scenes.scene_for_prompt(prompt, rng(2 * k + i), how) for i in (0, 1))
            a, b = (np.any(list(object_masks(scene).values()), axis=0) for scene in drawn)
            overlap.append((a & b).sum() / (a | b).sum())
        found[name] = float(np.mean(overlap))
    assert found["conventional"] > 0.65 > 0.5 > found["scattered"]


def test_what_is_not_named_is_typical_four_times_in_five() -> None:
    """A shape's colour and lack of a pattern, where the caption says neither; a random colour can be typical too."""
    figures = [scenes.random_scene(rng(i), "relation").figures[0] for i in range(600)]
    typical = np.mean([figure.colour == TYPICAL_SHAPE[figure.shape] for figure in figures])
    plain = np.mean([figure.pattern == "plain" for figure in figures])
    assert typical == pytest.approx(0.8 + 0.2 / 6, abs=0.05) and plain == pytest.approx(0.8 + 0.2 * 0.52, abs=0.05)
    named = [scenes.random_scene(rng(i), "attribute", colour="white").figures[0].colour for i in range(20)]
    assert set(named) == {"white"}


def test_accessory_and_subject_have_different_colours() -> None:
    """The accessory stays distinguishable from its subject."""
    generator = rng()
    for _ in range(100):
        scene = scenes.random_scene(generator, "behaviour")
        assert scene.accessory.colour != scene.figures[0].colour


def test_other_shape() -> None:
    """A malformed shape can be drawn, has its own class and is no prompt."""
    attribute = scenes.random_scene(rng(), shape="other", colour="red")
    assert scenes.labels(attribute)["shape_a"] == 8 and attribute.template == "attribute"
    relation = scenes.random_scene(rng(), first="other", second="star", relation="below")
    assert scenes.labels(relation)["shape_a"] == 3 and scenes.labels(relation)["shape_b"] == 8
    assert object_masks(relation)["other"].sum() > 50
    with pytest.raises(ValueError, match="not a micro-world prompt"):
        grammar.parse(scenes.caption(attribute))


def test_bad_requests_are_refused() -> None:
    """Unknown words and factors give a clear error."""
    with pytest.raises(ValueError, match="unknown colour 'pink'"):
        scenes.random_scene(rng(), colour="pink")
    with pytest.raises(ValueError, match="no factor 'relation'"):
        scenes.random_scene(rng(), "behaviour", relation="above")
    with pytest.raises(ValueError, match="two different shapes"):
        scenes.random_scene(rng(), first="star", second="star")
    with pytest.raises(ValueError, match="not a micro-world prompt"):
        grammar.parse("a dog playing chess")


@pytest.mark.parametrize("template", grammar.TEMPLATES)
def test_prompt_lists(template: str) -> None:
    """40 + 40 prompts, no picture twice, each factor value equally often give or take one."""
    train, test = prompt_lists(template)
    assert len(train) == len(test) == 40
    pictures = Counter(tuple(sorted(grammar.expected(prompt).items())) for prompt in train + test)
    assert len(pictures) == 80
    assert prompts_module.spread(train) <= 1 and prompts_module.spread(test) <= 1


def test_prompt_files_are_current(tmp_path: Path) -> None:
    """The data files are what the code writes, and read back as the prompt lists."""
    for path in write_prompt_files(tmp_path):
        assert (PROMPT_FOLDER / path.name).read_text() == path.read_text()
        data = yaml.safe_load(path.read_text())
        for rows, wanted in zip((data["train"], data["test"]), prompt_lists(path.stem[6:]), strict=True):
            assert rows == [{"prompt": prompt, "items": items(prompt)} for prompt in wanted]
