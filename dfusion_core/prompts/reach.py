"""The part of a prompt that a text encoder reads: tokenizers cut long prompts, and replace unknown words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import PromptsError, did_you_mean, listed, short
from .items import word_spans
from .reading import Prompt

FEW_WORDS = 300  # entries of a vocabulary that a message lists


@dataclass(frozen=True)
class Reader:
    """A tokenizer. ``name`` is its name in messages.

    rows: the encoder's tokens of n texts. count: the number of tokens of one text, including start and end, if
    nothing were cut. lacking: words of a text that are not in the vocabulary. words: the vocabulary. refuses: whether a
    text that is too long is an error.
    """

    name: str
    limit: int
    rows: Callable[[list[str]], list[tuple[int, ...]]]
    count: Callable[[str], int]
    lacking: Callable[[str], list[str]]
    words: Sequence[str] = ()
    refuses: bool = False


def check_reach(prompts: Sequence[Prompt], readers: Sequence[Reader], negative: str = "") -> str:
    """A warning about the parts of prompts that are cut; empty if none is. ``readers`` are those of one model.

    negative: ``sample.negative_prompt``. Raises PromptsError if a word is not in a vocabulary, an item is cut
    off, two prompts have the same tokens, or a prompt is too long for a reader that refuses long ones.
    """
    texts = [*prompts, *([Prompt(negative, ())] if negative else [])]
    mistakes = [line for reader in readers for prompt in texts for line in _lacking(prompt, reader)]
    cuts = [_cut(texts, reader) for reader in readers]  # a list: two tokenizers may have the same name
    for reader, cut in zip(readers, cuts, strict=True):
        for one, count, rest in cut:
            mistakes += _items_cut(one, count, rest, reader) or _refused(one, count, rest, reader)
    mistakes += _same(prompts, readers)
    if mistakes:
        raise PromptsError(
            f"prompts: not all of them reaches the model:\n{listed(mistakes)}",
            "\nShorten or reword these prompts in the file that prompts.file names"
            f"{' or in sample.negative_prompt' if negative else ''}"
            f"{', or set model.long_prompts to chunks' if any(cuts) else ''}.",
        )
    return "; ".join(_warning(reader, cut) for reader, cut in zip(readers, cuts, strict=True) if cut)


def _cut(prompts: Sequence[Prompt], reader: Reader) -> list[tuple[Prompt, int, str]]:
    """The prompts that are too long for one tokenizer, their numbers of tokens, and the parts that are cut."""
    return [
        (one, count, cut_part(one.text, reader)) for one in prompts if (count := reader.count(one.text)) > reader.limit
    ]


def cut_part(text: str, reader: Reader) -> str:
    """The end of a text, from a word on, that is cut."""
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    low, high = 0, len(ends)  # the first `low` words fit; all words do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if reader.count(text[: ends[middle - 1]]) <= reader.limit else (low, middle)
    return text[ends[low - 1] if low else 0 :].strip()


def huggingface_reader(
    name: str,
    tokenizer: Any,
    limit: int,
    rows: Callable[[list[str]], list[tuple[int, ...]]],
    clean: Callable[[str], str] = str,
) -> Reader:
    """The reader of a tokenizer of transformers; ``clean`` is applied to texts first."""
    specials = {tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id} - {None}

    def tokens(text: str, whole: bool) -> list[int]:
        found: list[int] = tokenizer(
            clean(text), add_special_tokens=whole, truncation=False, padding=False, verbose=False
        ).input_ids
        return found

    def lacking(text: str) -> list[str]:
        if specials.isdisjoint(tokens(text, whole=False)):
            return []
        return [word for word in text.split() if not specials.isdisjoint(tokens(word, whole=False))]

    known = (
        sorted(word.replace("</w>", "") for word in tokenizer.get_vocab() if word.endswith("</w>"))
        if len(tokenizer) <= FEW_WORDS
        else []
    )
    return Reader(name, limit, rows, lambda text: len(tokens(text, whole=True)), lacking, known)


def _lacking(prompt: Prompt, reader: Reader) -> list[str]:
    words = list(dict.fromkeys(reader.lacking(prompt.text)))
    if not words:
        return []
    there = f" {did_you_mean(words[0], reader.words)} It has {' '.join(reader.words)}." if reader.words else ""
    return [f"'{short(prompt.text)}': {reader.name} has no tokens for {', '.join(map(repr, words))}.{there}"]


def _items_cut(prompt: Prompt, count: int, rest: str, reader: Reader) -> list[str]:
    kept = prompt.text[: len(prompt.text.rstrip()) - len(rest)]
    lost = [item for item in prompt.items if not word_spans(kept, item)]
    return [
        f"'{short(prompt.text)}': is {count} tokens long, and {reader.name} reads {reader.limit}; '{short(rest)}' "
        f"is cut off, and with it the item '{short(item)}'."
        for item in lost
    ]


def _refused(prompt: Prompt, count: int, rest: str, reader: Reader) -> list[str]:
    long = f"'{short(prompt.text)}': is {count} tokens long, and {reader.name} reads {reader.limit}"
    return [f"{long}; '{short(rest)}' would be cut off (model.long_prompts: refuse)."] if reader.refuses else []


def _same(prompts: Sequence[Prompt], readers: Sequence[Reader]) -> list[str]:
    texts = [prompt.text for prompt in prompts]
    rows = list(zip(*(reader.rows(texts) for reader in readers), strict=True)) if texts else []
    first: dict[Any, str] = {}
    return [
        f"'{short(text)}': is the same as '{short(first[row])}' to {' and '.join(one.name for one in readers)}."
        for text, row in zip(texts, rows, strict=True)
        if first.setdefault(row, text) != text
    ]


def _warning(reader: Reader, cut: Sequence[tuple[Prompt, int, str]]) -> str:
    prompt, count, rest = cut[0]
    more = "" if len(cut) == 1 else f", and {len(cut) - 1} more are cut"
    return (
        f"{reader.name} reads {reader.limit} tokens: of '{short(prompt.text)}', {count} tokens long, "
        f"'{short(rest)}' is cut off{more}"
    )
