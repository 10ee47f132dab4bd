"""Train the micro-CLIP in open_clip's format: a modified ResNet and a two-layer text transformer.

Each picture is asked to pick its caption among those of its batch and near misses of them; where two prompts describe
the same picture both count as right.

reads  build/data, build/decoded.npy, weights/tokenizer   writes  weights/clip
"""

from __future__ import annotations

import json
import shutil

import open_clip
import torch
from safetensors.torch import save_file

from ..grammar import equivalent, near_misses
from ..locate import CLIP, WEIGHTS
from .augment import Pictures
from .data import load
from .loop import fit, rows_at
from .record import record
from .text import CONTEXT, prompts

STEPS, BATCH, LR = 1_400, 64, 2e-3
MISSES = 3  # near misses of each caption among the candidates
TOP_SCALE = 30.0  # caps the softmax sharpness, so that cosines of near misses stay well apart
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def config(vocab: int) -> dict[str, object]:
    """open_clip_config.json of the shipped model."""
    return {
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
            "text_cfg": {"context_length": CONTEXT, "vocab_size": vocab, "width": 96, "heads": 4, "layers": 2,
                         "hf_tokenizer_name": "micro", "tokenizer_kwargs": {}}},
        "preprocess_cfg": {"mean": list(MEAN), "std": list(STD), "interpolation": "bicubic",
                           "resize_mode": "shortest"}}


def build() -> tuple[open_clip.CLIP, open_clip.tokenizer.HFTokenizer]:
    """An untrained model through open_clip's own loading code, and its tokenizer."""
    CLIP.mkdir(parents=True, exist_ok=True)
    for file in (WEIGHTS / "tokenizer").iterdir():
        shutil.copy(file, CLIP / file.name)
    vocab = len(json.loads((CLIP / "tokenizer.json").read_text())["model"]["vocab"])
    (CLIP / "open_clip_config.json").write_text(json.dumps(config(vocab), indent=2) + "\n")
    name = f"local-dir:{CLIP}"
    return open_clip.create_model(name, load_weights=False), open_clip.get_tokenizer(name)


def accepted(texts: list[str]) -> torch.Tensor:
    """Row p marks the prompts that describe the same picture as prompt p (n, n) bool."""
    number = {text: i for i, text in enumerate(texts)}
    same = torch.eye(len(texts), dtype=torch.bool)
    for text, i in number.items():
        other = equivalent(text)
        if other is not None:
            same[i, number[other]] = True
    return same


@torch.no_grad()
def near_miss_accuracy(model: open_clip.CLIP, tokens: torch.Tensor, texts: list[str]) -> dict[str, float]:
    """Share of held-out drawings, per template, whose true caption outranks all its near misses."""
    images, captions, labels = load("held_out")
    text = model.encode_text(tokens, normalize=True)
    scaled = ((images.float() / 255) - 0.5) / STD[0]
    seen = torch.cat([model.encode_image(part, normalize=True) for part in scaled.split(256)])
    cosine, number = seen @ text.T, {t: i for i, t in enumerate(texts)}
    right = torch.tensor([
        bool((row[number[c]] > row[[number[m] for m in near_misses(c)]]).all())
        for row, c in zip(cosine, captions, strict=True)])
    names = ("behaviour", "attribute", "relation")
    return {n: right[labels["template"] == k].float().mean().item() for k, n in enumerate(names)}


def main() -> None:
    """Train and save in half precision."""
    torch.manual_seed(4)
    pictures, texts = Pictures.load(), prompts()
    model, tokenizer = build()
    tokens, same = tokenizer(texts), accepted(texts)
    number = {text: i for i, text in enumerate(texts)}
    caption_row = torch.tensor([number[c] for c in pictures.captions])

    misses = torch.tensor([[number[miss] for miss in near_misses(text)] for text in texts])

    def loss_at(step: int) -> torch.Tensor:
        rows = rows_at(step, BATCH, len(pictures), seed=4)
        right = caption_row[rows]
        drawn = torch.randint(0, misses.shape[1], (BATCH, MISSES), generator=torch.Generator().manual_seed(step))
        candidates = torch.cat([right, misses[right].gather(1, drawn).flatten()]).unique()
        seen = model.encode_image(pictures.batch(rows, step) / STD[0], normalize=True)
        text = model.encode_text(tokens[candidates], normalize=True)
        logits = model.logit_scale.exp().clamp(max=TOP_SCALE) * seen @ text.T
        positives = logits.masked_fill(~same[right][:, candidates], float("-inf")).logsumexp(dim=1)
        return (logits.logsumexp(dim=1) - positives).mean()

    fit(model.parameters(), loss_at, steps=STEPS, lr=LR, weight_decay=1e-2, name="clip")
    figures = near_miss_accuracy(model.eval(), tokens, texts)
    print("clip near misses", figures, flush=True)
    halved = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(halved, CLIP / "open_clip_model.safetensors")
    record("clip", CLIP, **figures)


if __name__ == "__main__":
    main()
