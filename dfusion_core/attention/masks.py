"""Eq. (4): the mask M_t of a prompt's items from cross-attention maps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import DFusionError
from ..prompts.items import word_spans

Threshold = Literal["absolute", "relative"]
Merge = Literal["xor", "or"]

WORD = r"\w+"


class ItemNotFound(DFusionError, ValueError):
    """A prompt has no token for an item: the word is not in it, or beyond the encoder's limit."""


def item_tokens(tokenizer: Any, prompt_text: str, item_word: str, limit: int | None = None) -> tuple[int, ...]:
    """Eq. (4): O_c, the token positions of one item, counted from the start token (position 0).

    item_word: a word or several ("traffic light"), any case; whole words only, so "cat" is not found in
    "cats". Words that the tokenizer splits give all their tokens (CLIP: "woolen" -> woo + len), repeated
    words all their occurrences. (The authors' code has the *word* index plus one, which is wrong after a split
    word.) limit: number of tokens read, including start and end; the tokenizer's own by default. Raises ItemNotFound.
    """
    spans = word_spans(prompt_text, item_word)
    words = f"Words of the prompt: {', '.join(re.findall(WORD, prompt_text))}."
    if not spans:
        raise ItemNotFound(f"item {item_word!r} is not in the prompt {prompt_text!r}.", words)
    limit = limit or _max_length(tokenizer)
    if getattr(tokenizer, "is_fast", False):
        positions = _by_offsets(tokenizer, prompt_text, spans, limit)
    else:
        positions = _by_ids(tokenizer, prompt_text, item_word, limit)
    if not positions:
        where = f"among the first {limit} tokens, all that the text encoder reads"
        raise ItemNotFound(f"item {item_word!r} of the prompt {prompt_text!r} is not {where}.", words)
    return tuple(positions)


def item_maps(A_cross: Tensor, tokens: Sequence[Sequence[int]]) -> Tensor:
    """Eq. (4): A_t^cross[:, :, o] of each item; the mean over its tokens.

    A_cross: (image, y, x, token), attention probabilities. tokens: for each item its positions.
    Returns (image, item, y, x).
    """
    return torch.stack([A_cross[..., list(o)].mean(-1) for o in tokens], dim=1)


def item_mask(maps: Tensor, thr: Sequence[float] | float, mode: Threshold = "absolute") -> Tensor:
    """Eq. (4): [ A_t^cross[:, :, o] >= thr_o ], one mask per item.

    maps: (image, item, y, x). thr: one per item, or one for all: an attention probability (absolute, Tables
    4-6), or a multiple of the map's spatial mean (relative). Returns bool (image,
    item, y, x).
    """
    if mode not in ("absolute", "relative"):
        raise ValueError(f"threshold mode must be 'absolute' or 'relative', got {mode!r}")
    items = maps.shape[1]
    values = [float(thr)] * items if isinstance(thr, (int, float)) else list(thr)
    if len(values) != items:
        raise ValueError(f"{len(values)} thresholds for {items} items")
    thr_o = torch.tensor(values, dtype=maps.dtype, device=maps.device).view(1, items, 1, 1)
    return maps >= (thr_o * maps.mean((-2, -1), keepdim=True) if mode == "relative" else thr_o)


def merge(masks: Tensor, how: Merge = "xor") -> Tensor:
    """Eq. (4): M_t = XOR over items. (The authors' code has OR where the paper writes XOR.)

    masks: bool (image, item, y, x). Returns bool (image, y, x).
    """
    if how not in ("xor", "or"):
        raise ValueError(f"masks are merged with 'xor' or 'or', got {how!r}")
    return masks.sum(1) % 2 == 1 if how == "xor" else masks.any(1)


def _by_offsets(tokenizer: Any, text: str, spans: list[tuple[int, int]], limit: int) -> list[int]:
    read = tokenizer(text, truncation=True, max_length=limit, return_offsets_mapping=True)
    return [
        position
        for position, (start, end) in enumerate(read["offset_mapping"])
        # special tokens have the empty span (0, 0)
        if start < end and any(start < span_end and span_start < end for span_start, span_end in spans)
    ]


def _by_ids(tokenizer: Any, text: str, item: str, limit: int) -> list[int]:
    """For tokenizers without offsets: positions at which the item's token ids occur in the prompt's."""
    ids = list(tokenizer(text, truncation=True, max_length=limit)["input_ids"])
    own = list(tokenizer(" ".join(item.split()), add_special_tokens=False)["input_ids"])
    starts = [k for k in range(len(ids) - len(own) + 1) if own and ids[k : k + len(own)] == own]
    return sorted({k + j for k in starts for j in range(len(own))})


def _max_length(tokenizer: Any) -> int:
    """The tokenizer's limit in tokens; tokenizers without a limit report about 1e30."""
    return int(min(getattr(tokenizer, "model_max_length", 77), 100_000))
