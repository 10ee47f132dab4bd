"""Text embeddings that condition the U-Net: one text encoder in SD 1 and 2, two in SDXL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch.nn.functional import pad

from ..attention.masks import item_tokens
from ..prompts.reach import Reader, huggingface_reader

LongPrompts = Literal["cut", "refuse", "chunks"]
UNLIMITED = 1_000_000  # tokens
SPECIALS = 2  # start and end of a row of tokens


@dataclass(frozen=True)
class Text:
    """n embedded prompts: ``states`` (n, token, width), and in SDXL ``pooled`` (n, d), else None.

    ``mask`` (n, token), bool, is False beyond the end of a prompt; None if all prompts are equally long.
    Rows are indexed as those of a tensor: ``text[2:]``, ``text[[0, 0, 1]]``.
    """

    states: torch.Tensor
    pooled: torch.Tensor | None = None
    mask: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: slice | list[int] | torch.Tensor) -> Text:
        return Text(self.states[rows], *(None if one is None else one[rows] for one in (self.pooled, self.mask)))

    def repeat(self, times: int) -> Text:
        """The whole batch, repeated."""
        return self[list(range(len(self))) * times]

    def padded(self, tokens: int) -> Text:
        """The same prompts, padded to this number of tokens; padding is masked."""
        more = tokens - self.states.shape[1]
        if not more:
            return self
        return Text(pad(self.states, (0, 0, 0, more)), self.pooled, pad(self.counted(), (0, more)))

    def counted(self) -> torch.Tensor:
        """``mask``, also if all prompts are equally long."""
        return self.states.new_ones(self.states.shape[:2], dtype=torch.bool) if self.mask is None else self.mask


def guided(negative: Text, text: Text) -> Text:
    """The rows of a guidance batch: the negative prompt (1) for each of n rows, then the n prompts."""
    tokens = max(one.states.shape[1] for one in (negative, text))
    negative, text = negative.padded(tokens), text.padded(tokens)
    mask = None
    if negative.mask is not None or text.mask is not None:
        mask = torch.cat([one.counted().expand(len(text), -1) for one in (negative, text)])
    states = torch.cat([negative.states.expand(len(text), -1, -1), text.states])
    if text.pooled is None or negative.pooled is None:
        return Text(states, None, mask)
    return Text(states, torch.cat([negative.pooled.expand(len(text), -1), text.pooled]), mask)


class TextEncoder:
    """The text encoders of a pipeline, with their tokenizers.

    long_prompts: treatment of texts that are longer than their limit: ``cut``, ``refuse`` (see `readers`), ``chunks``.
    """

    def __init__(self, pipeline: Any, long_prompts: LongPrompts = "cut") -> None:
        self.long_prompts = long_prompts
        names = ("", "_2") if getattr(pipeline, "text_encoder_2", None) is not None else ("",)
        self.parts = [
            (getattr(pipeline, f"tokenizer{name}"), getattr(pipeline, f"text_encoder{name}")) for name in names
        ]
        self.empty_is_zero = bool(pipeline.config.get("force_zeros_for_empty_prompt", False))

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], dtype: torch.dtype) -> Text:
        """Embed n texts; the states are in ``dtype``.

        One encoder: its last states. Two (SDXL): the states before the last layer of both, concatenated by channel, and
        the second one's pooled output; the empty prompt is all zeros if the model was trained so. The chunks of a long
        text are encoded separately and concatenated; the pooled output is that of the first.
        """
        if self.long_prompts == "chunks":
            return joined([self._encode([text], dtype) for text in texts])
        return self._encode(texts, dtype)

    def _encode(self, texts: Sequence[str], dtype: torch.dtype) -> Text:
        outputs = [self._run(tokenizer, encoder, texts) for tokenizer, encoder in self.parts]
        if len(outputs) == 1:
            return Text(outputs[0].last_hidden_state.to(dtype))
        states = torch.cat([one.hidden_states[-2] for one in outputs], dim=-1).to(dtype)
        pooled = outputs[-1].text_embeds.to(dtype)
        if self.empty_is_zero:
            blank = torch.tensor([text == "" for text in texts], device=states.device)
            states, pooled = states.masked_fill(blank[:, None, None], 0), pooled.masked_fill(blank[:, None], 0)
        return Text(states, pooled)

    def readers(self) -> list[Reader]:
        """The readers of the encoders, by which texts are checked."""
        names = ("the model's tokenizer", "the model's tokenizer_2")
        in_chunks = self.long_prompts == "chunks"
        read = [
            huggingface_reader(
                name,
                tokenizer,
                UNLIMITED if in_chunks else tokenizer.model_max_length,
                partial(_chunk_rows if in_chunks else _rows, tokenizer),
            )
            for name, (tokenizer, _) in zip(names, self.parts, strict=False)
        ]
        return [replace(one, refuses=self.long_prompts == "refuse") for one in read]

    def positions(self, prompt: str, item: str) -> tuple[int, ...]:
        """Eq. (4): O_c, the token positions of the item, over all chunks. Raises ItemNotFound."""
        tokenizer = self.parts[0][0]
        if self.long_prompts != "chunks":
            return item_tokens(tokenizer, prompt, item)
        found = item_tokens(tokenizer, prompt, item, limit=UNLIMITED)
        room = tokenizer.model_max_length - SPECIALS
        return tuple((k - 1) // room * (room + SPECIALS) + (k - 1) % room + 1 for k in found)

    def _run(self, tokenizer: Any, encoder: Any, texts: Sequence[str]) -> Any:
        read = _chunks(tokenizer, texts[0]) if self.long_prompts == "chunks" else token_rows(tokenizer, texts)
        tokens = read.to(encoder.device)
        return encoder(tokens, output_hidden_states=len(self.parts) > 1)


def _rows(tokenizer: Any, texts: Sequence[str]) -> list[tuple[int, ...]]:
    return [tuple(row) for row in token_rows(tokenizer, texts).tolist()]


def token_rows(tokenizer: Any, texts: Sequence[str], limit: int | None = None) -> torch.Tensor:
    """(n, token): the token rows of n texts for an encoder with ``limit`` tokens (its tokenizer's length)."""
    length = tokenizer.model_max_length if limit is None else limit
    found: torch.Tensor = tokenizer(
        list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    return found


def _chunks(tokenizer: Any, text: str) -> torch.Tensor:
    """(chunk, token): a text as rows of the encoder's length, each with start, end and padding."""
    length = tokenizer.model_max_length
    start, end = tokenizer("").input_ids  # CLIP's
    ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    room = length - SPECIALS
    parts = [ids[k : k + room] for k in range(0, max(1, len(ids)), room)]
    filler = tokenizer.pad_token_id
    return torch.tensor([[start, *part, end] + [filler] * (room - len(part)) for part in parts])


def _chunk_rows(tokenizer: Any, texts: Sequence[str]) -> list[tuple[int, ...]]:
    return [tuple(_chunks(tokenizer, text).flatten().tolist()) for text in texts]


def joined(texts: Sequence[Text]) -> Text:
    """One batch of prompts, each given as a Text with a row for every chunk: chunks are concatenated, the
    pooled output is that of the first."""
    rows = [Text(one.states.flatten(0, 1)[None], None if one.pooled is None else one.pooled[:1]) for one in texts]
    tokens = max(row.states.shape[1] for row in rows)
    rows = [row.padded(tokens) for row in rows]
    pooled = [row.pooled for row in rows if row.pooled is not None]
    mask = torch.cat([row.counted() for row in rows]) if any(row.mask is not None for row in rows) else None
    return Text(torch.cat([row.states for row in rows]), torch.cat(pooled) if pooled else None, mask)
