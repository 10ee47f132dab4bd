"""From prompts to the embeddings that condition the U-Net: one text encoder in SD 1 and 2, two in SDXL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..prompts.reach import Reader, huggingface_reader


@dataclass(frozen=True)
class Text:
    """n embedded prompts: ``states`` (n, token, width), and in SDXL ``pooled`` (n, d), else None.

    Rows are chosen as those of a tensor are: ``text[2:]``, ``text[[0, 0, 1]]``.
    """

    states: torch.Tensor
    pooled: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: slice | list[int] | torch.Tensor) -> Text:
        return Text(self.states[rows], None if self.pooled is None else self.pooled[rows])

    def repeat(self, times: int) -> Text:
        """The whole batch several times, one after the other."""
        return self[list(range(len(self))) * times]


def guided(negative: Text, text: Text) -> Text:
    """The rows of a guidance batch: the negative prompt (1) for each of n rows, then the n prompts."""
    states = torch.cat([negative.states.expand(len(text), -1, -1), text.states])
    if text.pooled is None or negative.pooled is None:
        return Text(states)
    return Text(states, torch.cat([negative.pooled.expand(len(text), -1), text.pooled]))


class TextEncoder:
    """The text encoders of a pipeline, with their tokenizers."""

    def __init__(self, pipeline: Any) -> None:
        names = ("", "_2") if getattr(pipeline, "text_encoder_2", None) is not None else ("",)
        self.parts = [
            (getattr(pipeline, f"tokenizer{name}"), getattr(pipeline, f"text_encoder{name}")) for name in names
        ]
        self.empty_is_zero = bool(pipeline.config.get("force_zeros_for_empty_prompt", False))

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], dtype: torch.dtype) -> Text:
        """Embed n texts; the states are in ``dtype``.

        One encoder: its last states. Two (SDXL): the states before the last layer of both, side by side, and the
        second one's pooled output; the empty prompt is all zeros where the model was trained so.
        """
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
        """What of a text reaches each encoder."""
        names = ("the model's tokenizer", "the model's tokenizer_2")
        return [
            huggingface_reader(name, tokenizer, tokenizer.model_max_length, partial(_rows, tokenizer))
            for name, (tokenizer, _) in zip(names, self.parts, strict=False)
        ]

    def _run(self, tokenizer: Any, encoder: Any, texts: Sequence[str]) -> Any:
        tokens = _tokens(tokenizer, texts).to(encoder.device)
        return encoder(tokens, output_hidden_states=len(self.parts) > 1)


def _rows(tokenizer: Any, texts: Sequence[str]) -> list[tuple[int, ...]]:
    return [tuple(row) for row in _tokens(tokenizer, texts).tolist()]


def _tokens(tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """(n, token): what an encoder gets of n texts."""
    found: torch.Tensor = tokenizer(
        list(texts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    return found
