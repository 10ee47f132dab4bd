"""CLIP's tokenizer from the package open_clip, for single-file checkpoints, which have none."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

VOCABULARY = 49_408  # entries
START, END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(folder: Path, pad_token: str = END) -> Path:
    """Write CLIP's tokenizer, all 49,408 entries, in the files of Stable Diffusion's ``tokenizer`` folder; returns
    ``folder``.

    The merges are the original ones, from open_clip. ``pad_token`` is ``"!"`` (id 0) in SD 2.x and in SDXL's
    second tokenizer. ``CLIPTokenizer.from_pretrained(folder)`` reads it.
    """
    from open_clip import tokenizer as original

    lines = gzip.decompress(Path(original.default_bpe()).read_bytes()).decode().split("\n")
    letters = list(original.bytes_to_unicode().values())
    merges = lines[1 : VOCABULARY - 2 * len(letters) - 2 + 1]  # the first line is a header; the rest is not used
    entries = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *(merge.replace(" ", "") for merge in merges),
        START,
        END,
    ]
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": pad_token,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({entry: i for i, entry in enumerate(entries)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return folder
