"""Checks of a reward model in a folder (``local-dir:``), before open_clip reads its configuration."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..errors import ModelError, RewardError
from ..models.builtin import reward_source
from ..models.configs import check_keys, read_config

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
TOKENIZER = (*VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json")
TOP = {"model_cfg", "preprocess_cfg", "license", "tags"}
MODEL = {
    "embed_dim",
    "vision_cfg",
    "text_cfg",
    "quick_gelu",
    "init_logit_scale",
    "init_logit_bias",
    "nonscalar_logit_scale",
    "custom_text",
}
PREPROCESS = {"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"}
TOKENIZER_KWARGS = {"clean", "strip_sep_token", "language"}  # open_clip's own; others are passed to transformers
OUTSIDE = {"hf_model_name", "hf_model_pretrained", "timm_model_pretrained"}  # would be downloaded
INSTEAD = "Remove it in a copy of the folder, or set reward.model to another model."


def check_folder(folder: Path) -> None:
    """Raise RewardError if a folder is not a complete reward model with plain values."""
    if not folder.is_dir() or not (folder / CONFIG).is_file():
        raise RewardError(
            f"reward.model: there is no {CONFIG} in the folder '{folder}'.",
            "Set reward.model to a folder that open_clip's models are saved in, or to micro-clip.",
        )
    try:
        config = read_config(folder / CONFIG)
        for name in ("config.json", "tokenizer_config.json"):
            if (folder / name).is_file():
                check_keys(folder / name, read_config(folder / name))
    except ModelError as error:
        raise RewardError(error.message.replace("model.id:", "reward.model:", 1), INSTEAD) from error
    _check_config(folder, config)
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise RewardError(
            f"reward.model: the folder '{folder}' has no weights: {' or '.join(WEIGHTS)} is missing.",
            "Copy the weights into it; without them every score would be random.",
        )
    if config["model_cfg"]["text_cfg"].get("hf_tokenizer_name") and not any(
        (folder / name).is_file() for name in VOCABULARIES
    ):
        raise RewardError(
            f"reward.model: the folder '{folder}' has no vocabulary: tokenizer.json is missing.",
            "Copy the tokenizer's files into it; without them every prompt would be the same.",
        )


def check_local(name: str) -> None:
    """Raise RewardError if ``name`` is a folder that is not a complete reward model with plain values."""
    source = reward_source(name)
    if source.startswith("local-dir:"):
        check_folder(Path(source.removeprefix("local-dir:")))


def folder_files(folder: Path) -> dict[str, Path]:
    """The files of a reward's folder that are read, by name."""
    there = (CONFIG, *WEIGHTS, *TOKENIZER)
    return {name: folder / name for name in there if (folder / name).is_file()}


def _check_config(folder: Path, config: Any) -> None:
    """Raise RewardError for unknown keys and for values that are not plain."""
    from open_clip import CLIPTextCfg, CLIPVisionCfg

    model = _section(folder, "", config, TOP).get("model_cfg")
    parts = _section(folder, "model_cfg", model, MODEL)
    text = _section(folder, "text_cfg", parts.get("text_cfg"), {one.name for one in fields(CLIPTextCfg)})
    vision = _section(folder, "vision_cfg", parts.get("vision_cfg"), {one.name for one in fields(CLIPVisionCfg)})
    _section(folder, "preprocess_cfg", config.get("preprocess_cfg", {}), PREPROCESS)
    _section(folder, "tokenizer_kwargs", text.get("tokenizer_kwargs") or {}, TOKENIZER_KWARGS)
    for name, value in [*text.items(), *vision.items()]:
        if name in OUTSIDE and value:
            raise _refused(folder, name, value, "which would be fetched from elsewhere")
    for name, value in (
        ("hf_tokenizer_name", text.get("hf_tokenizer_name")),
        ("timm_model_name", vision.get("timm_model_name")),
    ):
        path = str(value or "")
        if path.startswith(("/", ".", "~")) or ".." in path or ":" in path or "\\" in path:
            raise _refused(folder, name, value, "which points out of the folder")


def _section(folder: Path, name: str, value: Any, known: set[str]) -> dict[str, Any]:
    """A section of the configuration with known keys. Raises RewardError."""
    if not isinstance(value, dict):
        raise RewardError(f"reward.model: {folder / CONFIG} has no object {name or 'at its top'}.", INSTEAD)
    for key, one in value.items():
        if key not in known:
            raise _refused(folder, f"{name}.{key}".lstrip("."), one, "which is not known here")
    return value


def _refused(folder: Path, key: str, value: Any, why: str) -> RewardError:
    return RewardError(f"reward.model: {folder / CONFIG} has {key} = {json.dumps(value)[:80]}, {why}.", INSTEAD)
