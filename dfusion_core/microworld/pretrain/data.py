"""Draw the training pictures of the micro-world.

writes  build/data/COMPOSITION/images.npy (scene, 64, 64, 3) uint8, captions.json, labels.json
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from ..composition import COMPOSITIONS
from ..drawing import draw
from ..grammar import OTHER, SHAPES
from ..scenes import Scene, caption, labels, random_scene
from .settings import settings

SEED = 7
TRAIN, HELD_OUT = 36_000, 2_000
MALFORMED = 6_000  # pictures with an unnameable shape, for the oracle's class "other"
SHARE = {"behaviour": 0.36, "attribute": 0.28, "relation": 0.36}
SPLITS = {
    "train": (0, TRAIN),
    "held_out": (TRAIN, TRAIN + HELD_OUT),
    "malformed": (TRAIN + HELD_OUT, TRAIN + HELD_OUT + MALFORMED),
}


def scene(index: int, malformed: bool, composition: str) -> Scene:
    """The index-th scene, a function of the arguments."""
    rng, how = np.random.default_rng([SEED, int(malformed), index]), COMPOSITIONS[composition]
    template = str(rng.choice(list(SHARE), p=list(SHARE.values())))
    if not malformed:
        return random_scene(rng, template, how)
    if template != "relation":
        return random_scene(rng, template, how, shape=OTHER)
    whole = str(rng.choice([*SHAPES, OTHER]))
    first, second = (OTHER, whole) if rng.random() < 0.5 else (whole, OTHER)
    return random_scene(rng, template, how, first=first, second=second)


def _row(job: tuple[int, bool, str]) -> tuple[np.ndarray, str, dict[str, int]]:
    one = scene(*job)
    return draw(one), caption(one), labels(one)


def data_folder(composition: str) -> Path:
    """The folder of the pictures of a composition."""
    return settings().build_folder / "data" / composition


def latents_file(composition: str) -> Path:
    """The file of the latents of a composition's training pictures, written by `vae`."""
    return settings().build_folder / "latents" / f"{composition}.npy"


def decoded_file() -> Path:
    """The file of decoded pictures of the chosen composition, written by `vae`."""
    return settings().build_folder / "latents" / "decoded.npy"


def load_captions(composition: str, split: str = "train") -> list[str]:
    """Captions of a split: "train", "held_out" or "malformed"."""
    start, stop = SPLITS[split]
    return json.loads((data_folder(composition) / "captions.json").read_text())[start:stop]


def load(composition: str, split: str = "train") -> tuple[torch.Tensor, list[str], dict[str, torch.Tensor]]:
    """Pictures (n, 3, 64, 64) uint8, captions, and labels per head (n,) of a split."""
    folder, (start, stop) = data_folder(composition), SPLITS[split]
    images = torch.from_numpy(np.load(folder / "images.npy", mmap_mode="r")[start:stop].copy())
    table = {k: torch.tensor(v[start:stop]) for k, v in json.loads((folder / "labels.json").read_text()).items()}
    return images.permute(0, 3, 1, 2), load_captions(composition, split), table


def draw_all(composition: str) -> None:
    """Draw all splits of a composition into one array."""
    jobs = [(i, False, composition) for i in range(TRAIN + HELD_OUT)]
    jobs += [(i, True, composition) for i in range(MALFORMED)]
    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(_row, jobs, chunksize=250))
    folder = data_folder(composition)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", np.stack([row[0] for row in rows]))
    (folder / "captions.json").write_text(json.dumps([row[1] for row in rows]))
    heads = rows[0][2]
    (folder / "labels.json").write_text(json.dumps({h: [row[2][h] for row in rows] for h in heads}))


def main() -> None:
    """Scattered pictures, and those of params.yaml."""
    for composition in dict.fromkeys(["scattered", settings().composition]):
        draw_all(composition)


if __name__ == "__main__":
    main()
