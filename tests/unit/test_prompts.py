"""Prompt files: items are words of the prompt; every mistake is reported."""

import re
from pathlib import Path

import pytest
import yaml

from dfusion_core.errors import PromptsError
from dfusion_core.prompts.reading import Prompt, checked_prompts, load_prompts


def write(folder: Path, text: str) -> Path:
    path = folder / "prompts.yaml"
    path.write_text(text)
    return path


def test_prompts_items_and_thresholds_are_read(tmp_path: Path) -> None:
    text = """
train:
  - {prompt: A cat eating a sandwich, items: [cat, sandwich], thresholds: [0.03, 0]}
  - {prompt: the dog, items: [dog]}
test:
  - {prompt: the hot dog bun, items: [hot dog]}
"""
    prompts = load_prompts(write(tmp_path, text))
    assert prompts.train[0] == Prompt("A cat eating a sandwich", ("cat", "sandwich"), (0.03, 0.0))
    assert prompts.train[1].thresholds is None
    assert prompts.test[0].items == ("hot dog",)
    assert prompts.first(1, None).train == prompts.train[:1]
    with pytest.raises(PromptsError, match="3 train prompts are asked for, the file has 2"):
        prompts.first(3, None)


def test_a_plain_list_is_a_list_of_training_prompts(tmp_path: Path) -> None:
    text = """
# mine
- a [cat] eating a [sandwich]   # two items
- "[two dogs] on a hill"
- {prompt: "a [red  fox]", thresholds: [0.02]}
- {prompt: an owl, items: [owl]}
"""
    prompts = load_prompts(write(tmp_path, text))
    assert prompts.train == (
        Prompt("a cat eating a sandwich", ("cat", "sandwich")),
        Prompt("two dogs on a hill", ("two dogs",)),
        Prompt("a red  fox", ("red fox",), (0.02,)),
        Prompt("an owl", ("owl",)),
    )
    assert prompts.test == ()


@pytest.mark.parametrize(
    ("line", "cut"),
    [
        ("- a [sign] with #1", "#1"),
        ("- a [sign] with # 1", "# 1"),
        ("- {prompt: a sign with #tag\n  , items: [sign]}", "#tag"),
        ("- prompt: a sign with #1\n  items: [sign]", "#1"),
        ("- a [sign]\t#1", "#1"),
        ("- a [sign]  #1 of 2", "#1 of 2"),
    ],
)
def test_a_comment_that_cuts_a_prompt(tmp_path: Path, line: str, cut: str) -> None:
    with pytest.raises(PromptsError) as caught:
        load_prompts(write(tmp_path, f"- a [dog]\n{line}\n"))
    assert "a [sign]" in str(caught.value) or "a sign" in str(caught.value)
    assert f"'{cut}'" in str(caught.value) and "quotes" in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        '- "a [sign] with #1"',
        "- a [sign]  # mine",
        "- 'a [sign]' #1",
        "- a [sign]#1",
        "- {prompt: a sign, items: [sign], thresholds: [0.1]} #1",
    ],
)
def test_comments_that_cut_nothing(tmp_path: Path, line: str) -> None:
    assert "sign" in load_prompts(write(tmp_path, f"{line}\n")).train[0].text


@pytest.mark.parametrize(
    "again",
    [
        "A Heart x",
        "a heart x",
        "a  heart   x",
        '" a heart x"',
        '"a heart\\tx"',
        '"a\\u00a0heart x"',
        '"\\uFF41 heart x"',
        '"a he\\u00adart x"',
        '"a heart x\\u200b"',
        "A HEART X",
    ],
)
def test_the_same_prompt_in_another_form(tmp_path: Path, again: str) -> None:
    """A test prompt that is trained on is no test."""
    with pytest.raises(PromptsError) as caught:
        load_prompts(write(tmp_path, f"train:\n- a [heart]  x\ntest:\n- {again}\n"))
    assert "case, spaces or Unicode form" in str(caught.value) and "'a heart  x'" in str(caught.value)


def test_a_training_prompt_in_another_form(tmp_path: Path) -> None:
    """One that is given twice is weighted twice."""
    with pytest.raises(PromptsError, match="'A Heart' but|'A Heart': is 'a heart' but"):
        load_prompts(write(tmp_path, "- a [heart]\n- A [Heart]\n"))


def test_composed_and_decomposed_letters_are_the_same_prompt(tmp_path: Path) -> None:
    text = "train:\n- a [café] x\ntest:\n- a cafe\u0301 x\n"
    with pytest.raises(PromptsError, match="Unicode form"):
        load_prompts(write(tmp_path, text))


def test_marks_in_both_lists(tmp_path: Path) -> None:
    text = "train:\n- the big [[1]] [cat]\ntest:\n- a plain text\n- a [dog]\n"
    prompts = load_prompts(write(tmp_path, text))
    assert prompts.train == (Prompt("the big [1] cat", ("cat",)),)
    assert prompts.test == (Prompt("a plain text", ()), Prompt("a dog", ("dog",)))


@pytest.mark.parametrize(("line", "number"), [("- [cat] on a mat", 2), ("- {prompt: a [cat], thresholds: [0.1]}", 2)])
def test_brackets_that_yaml_takes_for_its_own(tmp_path: Path, line: str, number: int) -> None:
    with pytest.raises(PromptsError, match=rf"line {number}: .* must be in quotes where it begins with \["):
        load_prompts(write(tmp_path, f"- a [dog]\n{line}\n"))


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    text = """
train:
  - {prompt: a cat eating, item: [cat]}
  - {prompt: a category, items: [cat]}
  - {prompt: a cat and a dog, items: [cat, dog], thresholds: [0.1]}
  - {prompt: a pig, items: [pig], thresholds: [high]}
  - a text
  - [cat]
  - a [cat] and a [dog
  - {prompt: "a [fox]", items: [fox]}
  - the cat and the [Cat] or a [cat]
  - {prompt: a hen, items: [hen], thresholds: [0.1, 0.2]}
  - {prompt: a cow, items: [cow]}
test:
  - {prompt: a cow, items: [cow]}
tset: []
"""
    with pytest.raises(PromptsError) as caught:
        load_prompts(write(tmp_path, text))
    found = str(caught.value)
    for expected in (
        "'tset': there is no such key. Did you mean 'test'?",
        "train[0]: 'item': there is no such key. Did you mean 'items'?",
        "train[0]: 'a cat eating': `items` must be a list of words of the prompt, or mark them in the prompt, as in: "
        "a [cat] eating a [sandwich].",
        "train[1]: 'a category': the item 'cat' is not a word of the prompt.",
        "train[2]: 'a cat and a dog': 2 items but 1 thresholds.",
        "train[3]: 'a pig': `thresholds` must be a list of numbers from 0 to 1.",
        "train[4]: 'a text': `items` must be a list of words of the prompt, or mark them",
        "train[5]: must be a text with marked [items], or {prompt: ..., items: [...]}. A text with [ in it must be in "
        "quotes where it begins with [ or stands in {...}.",
        "train[6]: 'a [cat] and a [dog': the [ at character 15 is not closed; a bracket of the text is written [[.",
        "train[7]: 'a [fox]': has marks and `items`; leave one out.",
        "train[8]: 'the cat and the Cat or a cat': an item occurs twice; one entry stands for all its occurrences.",
        "train[9]: 'a hen': 1 items but 2 thresholds.",
        "'a cow': occurs twice.",
    ):
        assert expected in found


@pytest.mark.parametrize("text", ["", "train: []", "[]", "train: {a: 1}"])
def test_a_file_without_training_prompts_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(PromptsError):
        load_prompts(write(tmp_path, text))


def test_a_missing_file_names_the_parameter(tmp_path: Path) -> None:
    with pytest.raises(PromptsError, match=r"Set prompts\.file"):
        load_prompts(tmp_path / "none.yaml")


@pytest.mark.parametrize("template", ["attribute", "behaviour", "relation"])
def test_the_shipped_files_are_valid_from_any_folder(workspace: Path, template: str) -> None:
    prompts = load_prompts(f"dfusion_core/prompts/micro_{template}.yaml")
    assert len(prompts.train) == len(prompts.test) == 40


def test_the_files_shown_on_the_page_are_valid() -> None:
    page = (Path(__file__).parents[2] / "docs" / "prompts.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.S)
    plain, both = (checked_prompts(yaml.safe_load(block), "page") for block in blocks)
    assert [prompt.items for prompt in plain.train] == [("cat", "sandwich"), ("two dogs",), ("fox",)]
    assert both.train[1] == Prompt("a dog driving a car", ("dog", "car"), (0.03, 0.01))
    assert both.test == (Prompt("a dog riding a bike", ()),)
