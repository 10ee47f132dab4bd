"""Tables 4, 5 and 6 of the paper as data files: derived again from the templates, and pinned by rows copied by hand."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from dfusion_core.prompts.reading import Prompt, PromptFile, load_prompts

BEHAVIOUR = re.compile(r"a (?P<first>[a-z]+) (?P<verb>[a-z]+) (?:a )?(?P<second>[a-z]+)")
ATTRIBUTE = re.compile(r"a (?P<colour>[a-z]+) and (?P<material>[a-z]+) (?P<first>[a-z]+)")
RELATION = re.compile(r"the (?P<first>[a-z]+) (?:above|below|on the right of|on the left of) the (?P<second>[a-z]+)")
TEMPLATES = {"behaviour": BEHAVIOUR, "attribute": ATTRIBUTE, "relation": RELATION}


def lists(template: str) -> PromptFile:
    return load_prompts(f"dfusion_core/prompts/paper_{template}.yaml")


def values(prompts: tuple[Prompt, ...]) -> Counter[float]:
    return Counter(value for prompt in prompts for value in prompt.thresholds or ())


@pytest.mark.parametrize("template", TEMPLATES)
def test_forty_and_forty_all_different(template: str, workspace: Path) -> None:
    found = lists(template)
    assert len(found.train) == len(found.test) == 40
    assert len({prompt.text for prompt in (*found.train, *found.test)}) == 80


@pytest.mark.parametrize("template", TEMPLATES)
def test_items_are_the_nouns_of_the_template(template: str) -> None:
    found = lists(template)
    for prompt in (*found.train, *found.test):
        parts = TEMPLATES[template].fullmatch(prompt.text)
        assert parts, prompt.text
        nouns = [parts["first"], parts["second"]] if "second" in parts.groupdict() else [parts["first"]]
        assert list(prompt.items) == nouns
    assert all(len(prompt.thresholds or ()) == len(prompt.items) for prompt in found.train)
    assert all(prompt.thresholds is None for prompt in found.test)


def test_table_4_is_a_grid_with_a_threshold_for_each_word() -> None:
    """20 animals in the order of the table, each with two of three behaviours; the third one is tested."""
    found = lists("behaviour")
    animals = [
        "cat",
        "dog",
        "horse",
        "monkey",
        "rabbit",
        "zebra",
        "sheep",
        "deer",
        "cow",
        "goat",
        "lion",
        "tiger",
        "bear",
        "raccoon",
        "fox",
        "wolf",
        "lizard",
        "shark",
        "whale",
        "dolphin",
    ]
    assert [prompt.items[0] for prompt in found.train] == [animal for animal in animals for _ in range(2)]
    assert [prompt.items[0] for prompt in found.test[:20]] == animals
    behaviours = {"eating a sandwich", "driving a car", "playing basketball"}
    for animal in animals:
        seen = [p.text.removeprefix(f"a {animal} ") for p in (*found.train, *found.test[:30]) if p.items[0] == animal]
        assert len(seen) == 3 and set(seen) == behaviours
    second = {"sandwich": 0.005, "car": 0.01, "basketball": 0.02}
    assert [prompt.thresholds for prompt in found.train] == [(0.03, second[p.items[1]]) for p in found.train]
    assert Counter(p.text.split()[2] for p in found.test[30:]) == {"washing": 4, "riding": 3, "playing": 3}


def test_thresholds_are_those_of_the_tables_as_often() -> None:
    assert values(lists("attribute").train) == {0.005: 3, 0.01: 2, 0.015: 8, 0.02: 13, 0.025: 1, 0.03: 13}
    assert values(lists("relation").train) == {0.005: 7, 0.01: 50, 0.02: 7, 0.03: 16}


def test_words_of_table_5() -> None:
    words = [ATTRIBUTE.fullmatch(prompt.text) for prompt in lists("attribute").train]
    assert Counter(word["colour"] for word in words if word) == {
        "black": 14,
        "yellow": 7,
        "green": 6,
        "blue": 5,
        "red": 5,
        "white": 3,
    }
    assert {word["material"] for word in words if word} == {
        "woolen",
        "plastic",
        "metallic",
        "glass",
        "marble",
        "stone",
        "wooden",
        "leather",
        "fabric",
    }


@pytest.mark.parametrize(
    ("template", "row", "text", "thresholds"),
    [
        ("behaviour", 0, "a cat eating a sandwich", (0.03, 0.005)),
        ("behaviour", 5, "a horse eating a sandwich", (0.03, 0.005)),
        ("behaviour", 26, "a raccoon driving a car", (0.03, 0.01)),
        ("behaviour", 39, "a dolphin playing basketball", (0.03, 0.02)),
        ("attribute", 0, "a black and woolen bus", (0.005,)),
        ("attribute", 5, "a red and woolen dog", (0.01,)),
        ("attribute", 7, "a red and glass dog", (0.015,)),
        ("attribute", 13, "a yellow and woolen table", (0.005,)),
        ("attribute", 14, "a blue and woolen vase", (0.005,)),
        ("attribute", 16, "a black and stone sculpture", (0.025,)),
        ("attribute", 29, "a black and glass dog", (0.015,)),
        ("attribute", 39, "a green and glass sword", (0.03,)),
        ("relation", 0, "the umbrella above the table", (0.03, 0.01)),
        ("relation", 4, "the building below the tower", (0.005, 0.01)),
        ("relation", 5, "the snowboard below the person", (0.03, 0.005)),
        ("relation", 10, "the suitcase on the left of the person", (0.03, 0.005)),
        ("relation", 12, "the dog on the left of the person", (0.02, 0.005)),
        ("relation", 19, "the wheel below the engine", (0.01, 0.005)),
        ("relation", 20, "the engine above the wheel", (0.005, 0.01)),
        ("relation", 26, "the computer below the counter", (0.01, 0.005)),
        ("relation", 33, "the bottle on the right of the person", (0.02, 0.01)),
        ("relation", 39, "the person on the left of the bear", (0.01, 0.03)),
    ],
)
def test_training_rows_copied_by_hand(template: str, row: int, text: str, thresholds: tuple[float, ...]) -> None:
    prompt = lists(template).train[row]
    assert (prompt.text, prompt.thresholds) == (text, thresholds)


@pytest.mark.parametrize(
    ("template", "row", "text", "items"),
    [
        ("behaviour", 22, "a rat eating a sandwich", ("rat", "sandwich")),
        ("behaviour", 30, "a lion washing dishes", ("lion", "dishes")),
        ("behaviour", 31, "a tiger riding a bike", ("tiger", "bike")),
        ("behaviour", 38, "a whale playing chess", ("whale", "chess")),
        ("attribute", 2, "a white and woolen bowl", ("bowl",)),
        ("attribute", 39, "a red and leather car", ("car",)),
        ("relation", 13, "the skis below the pants", ("skis", "pants")),
        ("relation", 15, "the sunglasses below the hat", ("sunglasses", "hat")),
        ("relation", 39, "the bed on the left of the chair", ("bed", "chair")),
    ],
)
def test_test_rows_copied_by_hand(template: str, row: int, text: str, items: tuple[str, ...]) -> None:
    prompt = lists(template).test[row]
    assert (prompt.text, prompt.items) == (text, items)


def test_test_prompts_of_table_6_that_are_training_prompts_turned_round() -> None:
    """ "the bear on the right of the person" is drawn like "the person on the left of the bear"."""
    turned = {"above": "below", "on the right of": "on the left of"}
    turned |= {second: first for first, second in turned.items()}
    found = lists("relation")
    trained = {prompt.text for prompt in found.train}
    mirrored = [
        p.text
        for p in found.test
        for first, second in [p.items]
        if f"the {second} {turned[p.text[len(first) + 5 : -len(second) - 5]]} the {first}" in trained
    ]
    assert mirrored == [
        "the kite above the building",
        "the kite above the sand",
        "the keyboard above the mouse",
        "the pants below the shirt",
        "the bear on the right of the person",
    ]
