"""Text conditions of the transformers of SD 3 and FLUX: encoders of CLIP and T5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad

from ..attention.masks import ItemNotFound, item_tokens
from ..errors import ModelError
from ..prompts.reach import Reader, huggingface_reader
from .text import Text, token_rows

if TYPE_CHECKING:
    from ..params import Model

T5_TOKENS = {"sd3": 256, "flux": 512}  # as the pipelines of diffusers take by default


class FlowTextEncoder:
    """The text encoders of a pipeline with their tokenizers and limits.

    SD 3: the states before the last layer of two CLIPs, concatenated by channel, then T5's tokens; pooled: both CLIPs'
    projections. Without T5 its tokens are zeros. FLUX: T5's tokens; pooled: CLIP's. A model with one CLIP only, as the
    built-in one: its last states and its pooled output.
    """

    def __init__(self, pipeline: Any, model: Model | None = None) -> None:
        """Raises ModelError for prompts in chunks, which are not supported with these models."""
        self.refuses = model is not None and model.long_prompts == "refuse"
        if model is not None and model.long_prompts == "chunks":
            raise ModelError(
                f"model.long_prompts: '{model.id}' is a transformer; its prompts are not encoded in chunks.",
                "Set model.long_prompts to cut or refuse.",
            )
        self.flux = "Flux" in type(pipeline).__name__
        names = [name for name in ("", "_2", "_3") if getattr(pipeline, f"text_encoder{name}", None) is not None]
        self.parts = [
            (getattr(pipeline, f"tokenizer{name}"), getattr(pipeline, f"text_encoder{name}")) for name in names
        ]
        self.names = [f"the model's tokenizer{name}" for name in names]
        self.is_t5 = [encoder.config.model_type == "t5" for _, encoder in self.parts]
        self.width = int(pipeline.transformer.config.joint_attention_dim)

    @property
    def limits(self) -> list[int]:
        """The limit of each encoder in tokens."""
        t5 = T5_TOKENS["flux" if self.flux else "sd3"]
        return [
            min(tokenizer.model_max_length, t5) if is_t5 else tokenizer.model_max_length
            for (tokenizer, _), is_t5 in zip(self.parts, self.is_t5, strict=True)
        ]

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], dtype: torch.dtype) -> Text:
        """Embed n texts; the states are in ``dtype``."""
        outputs = [
            encoder(token_rows(tokenizer, texts, limit).to(encoder.device), output_hidden_states=True)
            for (tokenizer, encoder), limit in zip(self.parts, self.limits, strict=True)
        ]
        t5 = [one.last_hidden_state for one, is_t5 in zip(outputs, self.is_t5, strict=True) if is_t5]
        clips = [one for one, is_t5 in zip(outputs, self.is_t5, strict=True) if not is_t5]
        if self.flux:
            return Text(t5[0].to(dtype), clips[0].pooler_output.to(dtype))
        if len(clips) == 1:
            return Text(clips[0].last_hidden_state.to(dtype), clips[0].pooler_output.to(dtype))
        states = torch.cat([one.hidden_states[-2] for one in clips], dim=-1)
        last = t5[0] if t5 else states.new_zeros(len(states), T5_TOKENS["sd3"], self.width)
        states = torch.cat([pad(states, (0, last.shape[-1] - states.shape[-1])), last.to(states)], dim=1)
        return Text(states.to(dtype), torch.cat([one.text_embeds for one in clips], dim=-1).to(dtype))

    def positions(self, prompt: str, item: str) -> tuple[int, ...]:
        """Eq. (4): O_c, the positions of the item among the text tokens of the transformer.

        Both CLIPs of SD 3 split a text alike and share positions; T5's tokens come after them. Raises ItemNotFound if
        no encoder reads the item.
        """
        found: list[int] = []
        missing: ItemNotFound | None = None
        for tokenizer, start in self._places():
            try:
                found += [start + k for k in item_tokens(tokenizer, prompt, item)]
            except ItemNotFound as error:
                missing = error
        if missing is not None and not found:
            raise missing
        return tuple(found)

    def _places(self) -> list[tuple[Any, int]]:
        """(tokenizer, first position of its tokens) of the encoders of the transformer's text tokens."""
        clip = [] if self.flux else [(self.parts[0][0], 0)]
        t5 = [tokenizer for (tokenizer, _), is_t5 in zip(self.parts, self.is_t5, strict=True) if is_t5]
        return clip + [(tokenizer, 0 if self.flux else self.limits[0]) for tokenizer in t5]

    def readers(self) -> list[Reader]:
        """The readers of the encoders, by which texts are checked."""
        read = [
            huggingface_reader(name, tokenizer, limit, partial(_rows, tokenizer, limit))
            for name, (tokenizer, _), limit in zip(self.names, self.parts, self.limits, strict=True)
        ]
        return [replace(one, refuses=self.refuses) for one in read]


def _rows(tokenizer: Any, limit: int, texts: Sequence[str]) -> list[tuple[int, ...]]:
    return [tuple(row) for row in token_rows(tokenizer, texts, limit).tolist()]
