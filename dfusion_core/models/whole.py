"""Completeness of a model: every part has exactly the tensors of its files, and each tokenizer fits its encoder.

diffusers and transformers initialise missing tensors randomly, or leave them without storage.
Names and shapes are compared from the headers of the files; of the text encoders the vectors as well.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from ..errors import ModelError
from .mmdit import network_of
from .size import own_side
from .source import PARTS

if TYPE_CHECKING:
    from ..params import Model
    from .source import Source

AGAIN = "Get this part of the model once more (from where it came), or set model.id to another copy."
T5_LENGTH = 512  # tokens that T5 was trained on
PADDING = 128  # rows by which an embedding may exceed its vocabulary, because sizes are rounded up

# Harmless differences between a file and a module, with their origin.
PREFIXES = ("text_model.",)  # transformers < 5 writes it, later versions do not
HARMLESS = re.compile(
    r"(.*\.)?embeddings\.position_ids"  # transformers < 4.31: 0, 1, 2, ...
    r"|logit_scale"
)  # of the whole CLIP, beside its text encoder
VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # diffusers < 0.17
LORA = re.compile(r"lora_[AB]|lora\.(down|up)|lora_(down|up)|base_layer|base_model\.model")


def check_whole(model: Model, pipeline: Any, source: Source) -> None:
    """Raise ModelError if a part of the pipeline differs from its files, or a tokenizer does not fit."""
    for part in PARTS:
        module = getattr(pipeline, part, None)
        if module is not None:
            if not source.is_single_file:
                files = [name for name in source.files if name.startswith(f"{part}/") and name.endswith(".safetensors")]
                check_part(f"model.id: {part} of '{model.id}'", part, module, source.path, files)
            _check_storage(model, part, module)
    own_side(network_of(pipeline).config, pipeline.vae.config)
    for suffix in ("", "_2", "_3"):
        if getattr(pipeline, f"text_encoder{suffix}", None) is not None:
            check_tokenizer(model, suffix, pipeline, source)


def stored_tensors(path: Path, files: list[str], part: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """(file, shape) of every tensor of a part, by name, from the headers."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in files:
        with safe_open(path / file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                found[_plain(name, part)] = (file, tuple(opened.get_slice(name).get_shape()))
    return found


def check_tokenizer(model: Model, suffix: str, pipeline: Any, source: Source) -> None:
    """The vocabulary must exist and have the encoder's size; a missing length limit is set to the encoder's."""
    part, encoder = f"tokenizer{suffix}", getattr(pipeline, f"text_encoder{suffix}")
    tokenizer = getattr(pipeline, part, None)
    if tokenizer is None:
        raise ModelError(f"model.id: '{model.id}' has no {part}.", AGAIN)
    rows, words = encoder.get_input_embeddings().weight.shape[0], len(tokenizer)
    if not rows - PADDING < words <= rows:
        raise ModelError(
            f"model.id: {part} of '{model.id}' has {words} entries, and text_encoder{suffix} knows {rows}.", AGAIN
        )
    positions = getattr(encoder.config, "max_position_embeddings", T5_LENGTH)  # T5 has relative ones
    tokenizer.model_max_length = min(tokenizer.model_max_length, int(positions))


def check_vocabulary(model: Model, part: str, source: Source) -> None:
    """Raise ModelError for a missing vocabulary, with which a tokenizer gives every prompt the same tokens."""
    there = {name.removeprefix(f"{part}/") for name in source.files if name.startswith(f"{part}/")}
    if "tokenizer.json" in there or {"vocab.json", "merges.txt"} <= there:
        return
    missing = (
        "merges.txt"
        if "vocab.json" in there
        else "vocab.json"
        if "merges.txt" in there
        else "tokenizer.json (or vocab.json and merges.txt)"
    )
    raise ModelError(f"model.id: '{model.id}' has no {part}/{missing}: every prompt would be the same.", AGAIN)


def check_part(what: str, part: str, module: torch.nn.Module, path: Path, files: list[str]) -> None:
    """Raise ModelError if a part differs from its ``files`` below ``path``; ``what`` is its key and name."""
    if not files:
        raise ModelError(f"{what} has no weights in safetensors.", AGAIN)
    stored = stored_tensors(path, files, part)
    state = {_plain(name, part): value for name, value in module.state_dict().items()}
    tied = {_plain(name, part) for name in getattr(module, "_tied_weights_keys", None) or ()}
    missing = sorted(name for name in state.keys() - stored.keys() - tied if not HARMLESS.fullmatch(name))
    foreign = sorted(name for name in stored.keys() - state.keys() if not HARMLESS.fullmatch(name))
    other = sorted(name for name in state.keys() & stored.keys() if stored[name][1] != tuple(state[name].shape))
    if any(LORA.search(name) for name in foreign):
        raise ModelError(
            f"{what} was saved with a LoRA inside ({foreign[0]}).",
            "Merge it first (diffusers: fuse_lora, unload_lora_weights) and save the model again.",
        )
    for names, problem in ((missing, "lacks"), (other, "has another shape of"), (foreign, "has, unknown to it,")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(f"{what} is not whole: {files[0]} {problem} {names[0]}{more}.", AGAIN)
    if part.startswith("text_encoder"):
        _check_vectors(what, part, state, path, files)


def _check_vectors(what: str, part: str, state: dict[str, torch.Tensor], path: Path, files: list[str]) -> None:
    """Compare the vectors, which are small: transformers may have skipped a tensor whose name fits."""
    for file in files:
        with safe_open(path / file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                value = state.get(_plain(name, part))
                if value is not None and value.ndim == 1 and not torch.equal(opened.get_tensor(name).to(value), value):
                    raise ModelError(
                        f"{what} is not read from its file: {name} is another.",
                        "The file may be of another version of transformers; use another copy.",
                    )


def _check_storage(model: Model, part: str, module: torch.nn.Module) -> None:
    """Raise ModelError for tensors on the meta device, which diffusers leaves there if a file lacks them."""
    empty = [name for name, value in module.state_dict().items() if value.is_meta]
    if empty:
        raise ModelError(
            f"model.id: {part} of '{model.id}' is not whole: its file lacks {empty[0]}"
            f"{f' and {len(empty) - 1} more' if len(empty) > 1 else ''}.",
            AGAIN,
        )


def _plain(name: str, where: str) -> str:
    """A tensor's name without differences between versions of the libraries."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    if where.startswith("vae"):
        name = re.sub(r"(?<=\.attentions\.0\.)(query|key|value|proj_attn)(?=\.)", lambda m: VAE_ATTENTION[m[1]], name)
    return name
