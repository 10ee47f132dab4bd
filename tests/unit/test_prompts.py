"""Prompt files: items are words of the prompt; every mistake is reported."""

from pathlib import Path

import pytest

from dfusion_core.errors import PromptsError
from dfusion_core.prompts import Prompt, load_prompts


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


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    text = """
train:
  - {prompt: a cat eating, item: [cat]}
  - {prompt: a category, items: [cat]}
  - {prompt: a cat and a dog, items: [cat, dog], thresholds: [0.1]}
  - {prompt: a pig, items: [pig], thresholds: [high]}
  - a text
  - {prompt: a cow, items: [cow]}
test:
  - {prompt: a cow, items: [cow]}
tset: []
"""
    with pytest.raises(PromptsError) as caught:
        load_prompts(write(tmp_path, text))
    found = str(caught.value)
    for expected in (
        "tset: there is no such key. Did you mean 'test'?",
        "train[0]: 'item': there is no such key. Did you mean 'items'?",
        "train[0]: 'a cat eating': `items` must be a list of words of the prompt.",
        "train[1]: 'a category': the item 'cat' is not a word of the prompt.",
        "train[2]: 'a cat and a dog': 2 items but 1 thresholds.",
        "train[3]: 'a pig': `thresholds` must be a list of numbers from 0 to 1.",
        "train[4]: must be {prompt: ..., items: [...]}.",
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
