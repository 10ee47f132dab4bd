"""Train the micro-CLIP in open_clip's format: a modified ResNet and a two-layer text transformer.

Each picture selects its caption among those of its batch and their near misses; if two prompts describe
the same picture, both are right.

reads  build/data, weights/tokenizer   writes  weights/clip
"""

from __future__ import annotations

import json
import shutil

import open_clip
import torch
from safetensors.torch import save_file

from ..grammar import equivalent, near_misses
from .augment import Pictures
from .data import load
from .loop import Batch, fit, rows_at
from .record import record
from .settings import settings
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
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": vocab,
                "width": 96,
                "heads": 4,
                "layers": 2,
                "hf_tokenizer_name": "micro",
                "tokenizer_kwargs": {},
            },
        },
        "preprocess_cfg": {"mean": list(MEAN), "std": list(STD), "interpolation": "bicubic", "resize_mode": "shortest"},
    }


def build() -> tuple[open_clip.CLIP, open_clip.tokenizer.HFTokenizer]:
    """An untrained model through open_clip's own loading code, and its tokenizer."""
    folder = settings().weights_folder / "clip"
    folder.mkdir(parents=True, exist_ok=True)
    for file in (settings().weights_folder / "tokenizer").iterdir():
        shutil.copy(file, folder / file.name)
    vocab = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    (folder / "open_clip_config.json").write_text(json.dumps(config(vocab), indent=2) + "\n")
    name = f"local-dir:{folder}"
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
    images, captions, labels = load(settings().composition, "held_out")
    text = model.encode_text(tokens, normalize=True).cpu()
    scaled = ((images.float() / 255) - 0.5) / STD[0]
    seen = torch.cat([model.encode_image(part.to(tokens.device), normalize=True).cpu() for part in scaled.split(256)])
    cosine, number = seen @ text.T, {t: i for i, t in enumerate(texts)}
    right = torch.tensor(
        [
            bool((row[number[c]] > row[[number[m] for m in near_misses(c)]]).all())
            for row, c in zip(cosine, captions, strict=True)
        ]
    )
    names = ("behaviour", "attribute", "relation")
    return {n: right[labels["template"] == k].float().mean().item() for k, n in enumerate(names)}


class Shards:
    """Shards: pictures, and the prompts from which each selects its own."""

    def __init__(self, pictures: Pictures, texts: list[str]) -> None:
        number = {text: i for i, text in enumerate(texts)}
        self.pictures, self.caption = pictures, torch.tensor([number[c] for c in pictures.captions])
        self.misses = torch.tensor([[number[miss] for miss in near_misses(text)] for text in texts])

    def __call__(self, number: int) -> Batch:
        """The shard of this number; ``repeated`` marks candidates that stand further in front already."""
        rows = rows_at(number, BATCH, len(self.pictures), seed=4)
        right = self.caption[rows]
        generator = torch.Generator().manual_seed(number)
        drawn = torch.randint(0, self.misses.shape[1], (BATCH, MISSES), generator=generator)
        candidates = torch.cat([right, self.misses[right].gather(1, drawn).flatten()])
        repeated = (candidates[:, None] == candidates).tril(diagonal=-1).any(dim=1)
        return self.pictures.draw(rows, number) | {"right": right, "candidates": candidates, "repeated": repeated}


class Objective:
    """Cross-entropy of each picture's prompt, or the other prompt for the same picture, among the candidates."""

    def __init__(self, model: open_clip.CLIP, pictures: Pictures, tokens: torch.Tensor, same: torch.Tensor) -> None:
        self.model, self.pictures, self.tokens, self.same = model, pictures, tokens, same

    def __call__(self, batch: Batch) -> torch.Tensor:
        """The loss of a shard."""
        candidates = batch["candidates"]
        seen = self.model.encode_image(self.pictures.show(batch) / STD[0], normalize=True)
        text = self.model.encode_text(self.tokens[candidates], normalize=True)
        logits = self.model.logit_scale.exp().clamp(max=TOP_SCALE) * seen @ text.T
        logits = logits.masked_fill(batch["repeated"], float("-inf"))
        wrong = ~self.same[batch["right"]][:, candidates]
        return (logits.logsumexp(dim=1) - logits.masked_fill(wrong, float("-inf")).logsumexp(dim=1)).mean()


def main() -> None:
    """Train and save in half precision."""
    torch.manual_seed(4)
    on, pictures, texts = settings().on, Pictures.load(), prompts()
    model, tokenizer = build()
    model.to(on)
    tokens = tokenizer(texts).to(on)
    objective = Objective(model, pictures.to(on), tokens, accepted(texts).to(on))
    fit(
        model.parameters(),
        Shards(pictures, texts),
        objective,
        steps=STEPS,
        lr=LR,
        weight_decay=1e-2,
        name="clip",
        merged=False,
    )
    figures = near_miss_accuracy(model.eval(), tokens, texts)
    print("clip near misses", figures, flush=True)
    folder = settings().weights_folder / "clip"
    halved = {k: (v.half() if v.is_floating_point() else v).cpu() for k, v in model.state_dict().items()}
    save_file(halved, folder / "open_clip_model.safetensors")
    record("clip", folder, **figures)


if __name__ == "__main__":
    main()
