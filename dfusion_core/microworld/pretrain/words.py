"""Train the U-Net for the first time: scattered pictures with true captions, noise prediction only.

`unet.py` continues from these weights.

reads  build/latents, build/data, weights/{text_encoder,tokenizer}   writes  build/words
"""

from __future__ import annotations

import torch

from ..grammar import TEMPLATES
from .network import build, save, train
from .record import record
from .settings import settings

LR, SEED = 1.2e-3, 0


def main() -> None:
    """Train and save."""
    torch.manual_seed(3)
    folder = settings().build_folder / "words"
    average = train(
        build(),
        "scattered",
        dict.fromkeys(TEMPLATES, 0.0),
        0.0,
        steps=settings().words_steps,
        lr=LR,
        seed=SEED,
        name="words",
    )
    save(average, folder)
    record("words", folder)


if __name__ == "__main__":
    main()
