"""Prompt files: each prompt with the words of its items, and optionally their thresholds (Tables 4-6).

    train:
      - {prompt: a cat eating a sandwich, items: [cat, sandwich], thresholds: [0.03, 0.005]}
      - a [dog] driving a [car]
    test:
      - {prompt: a dog riding a bike, items: [dog, bike]}

A plain list is a list of training prompts. Items are words and not token positions, because a tokenizer may split a
word: "woolen" is two CLIP tokens. docs/prompts.md has the whole format; `formats.py` reads TXT, CSV, JSON and JSONL.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PromptsError, did_you_mean, listed, one_line, short
from ..params.strict_yaml import CutText
from .formats import FORMATS, read_data
from .items import MarkError, read_marks, word_spans

KEYS = ("prompt", "items", "thresholds")
QUOTES = "A text with [ in it must be in quotes where it begins with [ or stands in {...}."
MARKS = "or mark them in the prompt, as in: a [cat] eating a [sandwich]."


@dataclass(frozen=True)
class Prompt:
    """A text, the words in it that name items (O_c), and thr_o for each item, if the file gives them.

    A test prompt may have no items: masks are made of training prompts only.
    """

    text: str
    items: tuple[str, ...]
    thresholds: tuple[float, ...] | None = None


@dataclass(frozen=True)
class PromptFile:
    """The training prompts and the test prompts."""

    train: tuple[Prompt, ...]
    test: tuple[Prompt, ...]

    def first(self, train_count: int | None, test_count: int | None) -> "PromptFile":
        """The first prompts of each list; None: all. Raises PromptsError if there are fewer."""
        return PromptFile(_first("train", self.train, train_count), _first("test", self.test, test_count))


def load_prompts(path: str | Path) -> PromptFile:
    """The prompt file at `path`, which is found as `find_file` says.

    Raises PromptsError with every mistake in the file.
    """
    path = Path(path)
    try:
        path = find_file(path)
        data = read_data(path)
    except FileNotFoundError:
        raise PromptsError(f"prompts: there is no file {path}.", "Set prompts.file in params.yaml.") from None
    except OSError as error:
        raise PromptsError(
            f"prompts: {short(str(path), 300)} cannot be read: {one_line(error)}.",
            "Set prompts.file in params.yaml to a YAML file.",
        ) from error
    except ValueError as error:
        raise PromptsError(
            f"prompts: {path}: {error}.",
            f"Correct that line. {'' if path.suffix.lower() in FORMATS else QUOTES}".rstrip(),
        ) from error
    return checked_prompts(data, path.name)


def checked_prompts(data: Any, name: str) -> PromptFile:
    """The prompts in the content of a YAML file called `name`. Raises PromptsError with every mistake."""
    problems: list[str] = []
    lists = {key: _prompts(key, entries, problems) for key, entries in _lists(data, problems).items()}
    problems += _repeated([*lists.get("train", ()), *lists.get("test", ())])
    if problems:
        raise PromptsError(f"prompts: {name} is not valid:\n{listed(problems)}")
    return PromptFile(tuple(lists["train"]), tuple(lists["test"]))


def find_file(path: str | Path) -> Path:
    """`path`; one that begins with `dfusion_core/` is also found in an installed package."""
    path = Path(path)
    packaged = Path(__file__).parents[2] / path
    return packaged if not path.exists() and path.parts[:1] == ("dfusion_core",) and packaged.exists() else path


def _first(name: str, prompts: tuple[Prompt, ...], count: int | None) -> tuple[Prompt, ...]:
    if count is not None and count > len(prompts):
        raise PromptsError(
            f"prompts: {count} {name} prompts are asked for, the file has {len(prompts)}.",
            f"Lower {name}_count in params.yaml or add prompts.",
        )
    return prompts[:count]


def _lists(data: Any, problems: list[str]) -> dict[str, list[Any]]:
    """The lists `train` and `test` of the file, still unchecked inside."""
    if isinstance(data, list):
        data = {"train": data}
    if not isinstance(data, dict) or not data.get("train"):
        problems.append("needs a list of prompts, or a list `train`, with at least one prompt.")
        return {}
    problems += [_unknown(key, ("train", "test")) for key in data if key not in ("train", "test")]
    lists = {key: data.get(key) or [] for key in ("train", "test")}
    problems += [f"{key}: must be a list of prompts." for key, value in lists.items() if not isinstance(value, list)]
    return {key: value for key, value in lists.items() if isinstance(value, list)}


def _prompts(name: str, entries: list[Any], problems: list[str]) -> list[Prompt]:
    prompts = []
    for index, entry in enumerate(entries):
        found = _prompt({"prompt": entry} if isinstance(entry, str) else entry, need_items=name == "train")
        if isinstance(found, Prompt):
            prompts.append(found)
        else:
            problems += [f"{name}[{index}]: {mistake}" for mistake in found]
    return prompts


def _prompt(entry: Any, need_items: bool) -> Prompt | list[str]:
    """One entry of a list, or what is wrong with it."""
    if not isinstance(entry, dict):
        return [f"must be a text with marked [items], or {{prompt: ..., items: [...]}}. {QUOTES}"]
    found = [_unknown(key, KEYS) for key in entry if key not in KEYS]
    marked, thresholds = entry.get("prompt"), entry.get("thresholds")
    if not isinstance(marked, str) or not marked.strip():
        return [*found, "`prompt` must be a text."]
    if isinstance(marked, CutText):
        return [
            *found,
            f"'{short(marked)}': YAML takes '{short(marked.rest)}' behind it for a comment. Put the prompt "
            "in quotes if that belongs to it; a comment needs two spaces before # and one behind it.",
        ]
    try:
        text, items = read_marks(marked)
    except MarkError as error:
        return [*found, f"'{short(marked)}': {error}."]
    if "items" in entry:
        if items:
            return [*found, f"'{short(marked)}': has marks and `items`; leave one out."]
        items = entry["items"]
    found += _item_mistakes(text, items, need_items or "items" in entry)
    if isinstance(items, list | tuple):
        found += _threshold_mistakes(text, len(items), thresholds)
    return found or Prompt(text, tuple(items), tuple(map(float, thresholds)) if thresholds else None)


def _unknown(key: Any, known: Sequence[str]) -> str:
    return f"'{short(str(key))}': there is no such key. {did_you_mean(str(key), known)}".rstrip()


def _item_mistakes(text: str, items: Any, needed: bool) -> list[str]:
    shown = short(text)
    words = isinstance(items, list | tuple) and all(isinstance(item, str) for item in items)
    if not words or (needed and not items):
        return [f"'{shown}': `items` must be a list of words of the prompt, {MARKS}"]
    found = [
        f"'{shown}': the item '{short(item)}' is not a word of the prompt."
        for item in items
        if not word_spans(text, item)
    ]
    if len({item.lower() for item in items}) < len(items):
        found.append(f"'{shown}': an item occurs twice; one entry stands for all its occurrences.")
    return found


def _threshold_mistakes(text: str, items: int, thresholds: Any) -> list[str]:
    if thresholds is None:
        return []
    numbers = isinstance(thresholds, list) and all(
        type(value) in (int, float) and 0 <= value <= 1 for value in thresholds
    )
    if not numbers:
        return [f"'{short(text)}': `thresholds` must be a list of numbers from 0 to 1."]
    return [f"'{short(text)}': {items} items but {len(thresholds)} thresholds."] if len(thresholds) != items else []


def _repeated(prompts: Sequence[Prompt]) -> list[str]:
    """Mistakes for duplicates, which would be weighted twice, and for test prompts that are training prompts."""
    seen: dict[str, str] = {}
    repeated = []
    for prompt in prompts:
        form = plain_form(prompt.text)
        if first := seen.get(form):
            repeated.append(
                f"'{short(prompt.text)}': occurs twice."
                if first == prompt.text
                else f"'{short(prompt.text)}': is '{short(first)}' but for case, spaces or Unicode form."
            )
        seen.setdefault(form, prompt.text)
    return repeated


def plain_form(text: str) -> str:
    """`text` without differences in case, spaces, Unicode form and invisible characters."""
    shown = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFKC", " ".join(shown.casefold().split()))
