"""Train the tokenizer and the text encoder (transformers ``CLIPTokenizer``, ``CLIPTextModel``).

The target of a word's output is the sum of the codes of its phrase so far ("a blue and dotted square": at *square*
it is blue + dotted + square); start, end and padding tokens have a constant target. The U-Net can therefore learn the
content of a picture only by attending to words; the positions at which it attends are not supervised.

reads  nothing   writes  weights/tokenizer, weights/text_encoder
"""

from __future__ import annotations

import json
from functools import cache

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..grammar import TEMPLATES, all_prompts
from .loop import Batch, fit, rows_at
from .record import record
from .settings import settings

CONTEXT, WIDTH = 16, 96
STEPS, BATCH, LR = 1_500, 32, 2e-3
START, END = "<|startoftext|>", "<|endoftext|>"
SILENT = {"a", "an", "and", "the", "on", "of"}  # function words, without a code
BOUNDARY = {"holding", "wearing", "riding", "kicking", "climbing", "above", "below", "left", "right"}


def prompts() -> list[str]:
    """Every prompt of the grammar."""
    return [p for template in TEMPLATES for p in all_prompts(template)]


def train_tokenizer() -> CLIPTokenizer:
    """A byte-pair encoding in CLIP's form (``</w>`` ends a word), every word of the grammar one token."""
    bpe = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = sorted("abcdefghijklmnopqrstuvwxyz0123456789.,!?'-")
    trainer = trainers.BpeTrainer(
        vocab_size=2_000, end_of_word_suffix="</w>", initial_alphabet=letters, show_progress=False
    )
    bpe.train_from_iterator(prompts(), trainer)
    table = json.loads(bpe.to_str())["model"]
    singles = [c + end for c in letters for end in ("", "</w>")]
    vocab = {t: i for i, t in enumerate(dict.fromkeys([*singles, *sorted(table["vocab"], key=table["vocab"].get)]))}
    vocab |= {START: len(vocab), END: len(vocab) + 1}
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in table["merges"]]
    return CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=CONTEXT,
    )


@cache
def code(word: str) -> torch.Tensor:
    """A fixed random vector (WIDTH,) for a word of content."""
    seed = int.from_bytes(word.encode()[:7], "big") + 31 * len(word)
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def said_so_far(words: list[str]) -> list[torch.Tensor]:
    """For each word the sum of the codes of its phrase so far; verbs and relations begin a phrase."""
    total, out = torch.zeros(WIDTH), []
    for word in words:
        total = code("<second>").clone() if word in BOUNDARY else total
        total = total if word in SILENT else total + code(word)
        out.append(code("<silent>") if word in SILENT else total)
    return out


def targets(prompt: str) -> torch.Tensor:
    """Targets of the encoder (CONTEXT, WIDTH), each row of zero mean and unit variance."""
    rows = [code("<silent>")] * CONTEXT
    words = prompt.split()
    rows[1 : 1 + len(words)] = said_so_far(words)
    return torch.nn.functional.layer_norm(torch.stack(rows), (WIDTH,))


def build(vocab: int) -> CLIPTextModel:
    """An untrained text encoder of the shipped size."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            projection_dim=WIDTH,
            hidden_act="gelu",
            bos_token_id=vocab - 2,
            eos_token_id=vocab - 1,
            pad_token_id=vocab - 1,
        )
    )


def main() -> None:
    """Fit the encoder to its targets on every prompt and on the empty one."""
    torch.manual_seed(2)
    tokenizer, texts, on = train_tokenizer(), [*prompts(), ""], settings().on
    tokens = tokenizer(texts, padding="max_length", max_length=CONTEXT, return_tensors="pt").input_ids.to(on)
    wanted = torch.stack([targets(t) for t in texts]).to(on)
    model = build(len(tokenizer)).to(on)

    def loss_of(batch: Batch) -> torch.Tensor:
        rows = batch["rows"]
        return (model(tokens[rows]).last_hidden_state - wanted[rows]).square().mean()

    fit(
        model.parameters(),
        lambda number: {"rows": rows_at(number, BATCH, len(texts))},
        loss_of,
        steps=STEPS,
        lr=LR,
        name="text",
    )
    weights = settings().weights_folder
    tokenizer.save_pretrained(weights / "tokenizer")
    model.eval().cpu().save_pretrained(weights / "text_encoder")
    record("text", weights / "tokenizer", weights / "text_encoder")


if __name__ == "__main__":
    main()
