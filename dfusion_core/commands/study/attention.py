"""Appendix B of the paper on a round's own pairs: ways to control attention (Figure 8), layers and timesteps
(Figure 9), cross-attention by timestep (Figure 10).

reads   sample/, extract/ of a round and the adapter it sampled with
writes  control.csv, control.png; layers.csv, layers.png; heatmaps.png
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ...adoption.figures import distance, enlarge
from ...attention.control import capturing, fusing
from ...attention.layers import fused_layers, layer_paths, present_layers
from ...diffusion.noise import trajectory_noises
from ...errors import ParamsError
from ...evaluation.grading import score_images
from ...evaluation.sheets import Line, Tile, grey, sheet
from ...fusion.targets import Control, References, denoise_fused
from ...models.policy import Policy, load_policy
from ...params import Params, load_params
from ...params.rounds import previous
from ...rewards.scoring import Scorer, load_reward
from ...store import read_stage
from ...store.paths import adapter
from .variants import VARIANTS, controlling

BATCH = 16
SHOWN = 3  # pairs on the sheet of Figure 8
TILE = 128  # pixels
Pictures = NDArray[np.uint8]  # (pair, row, column, 3)


@dataclass(frozen=True)
class Setting:
    """The pairs and the model of the study. Pictures are (pair, row, column, 3)."""

    params: Params
    policy: Policy
    reward: Scorer
    pairs: pd.DataFrame
    base_x: torch.Tensor
    reference_x: torch.Tensor
    mask: torch.Tensor
    base: Pictures
    reference: Pictures

    @property
    def steps(self) -> int:
        """T."""
        return self.policy.schedule.num_steps


def first_pairs(pairs: pd.DataFrame, count: int) -> pd.DataFrame:
    """The first pair of each prompt, then the second, and so on, ``count`` in all."""
    turn = pairs.groupby("prompt_id").cumcount()
    return pairs.assign(turn=turn).sort_values(["turn", "prompt_id"]).head(count).reset_index(drop=True)


def load_setting(round: str, count: int) -> Setting:
    """``count`` pairs of a finished round."""
    params = load_params("model", "sample", "reward", "fuse", "rounds")
    sampled, extracted = read_stage("sample", round), read_stage("extract", round)
    pairs = first_pairs(extracted.table("pairs"), count)
    policy = load_policy(params.model, params.sample, adapter(previous(params, round)))
    if policy.is_transformer:
        raise ParamsError(
            f"study attention: model.id: '{params.model.id}' is a transformer, and its ways of control are a U-Net's.",
            "'python benchmarks/microworld_flow.py carry' measures which blocks carry appearance.",
        )
    return Setting(
        params,
        policy,
        load_reward(params.reward, policy.device),
        pairs,
        sampled.tensor("x", pairs.base_image),
        sampled.tensor("x", pairs.reference_image),
        extracted.tensor("mask", pairs.reference),
        sampled.rows("picture", pairs.base_image),
        sampled.rows("picture", pairs.reference_image),
    )


def targets(s: Setting, layers: Sequence[str], first: int, last: int, control: Control = fusing) -> Pictures:
    """The targets of all pairs under one way of control."""
    pictures, T = [], s.policy.schedule.num_steps
    for start in range(0, len(s.pairs), BATCH):
        rows = slice(start, start + BATCH)
        part = s.pairs.iloc[rows]
        _, noise = trajectory_noises(part.base_seed.tolist(), s.policy.latent_shape, s.steps)
        x = denoise_fused(
            s.policy,
            s.base_x[rows],
            noise,
            s.policy.embed(part.prompt.tolist()),
            References(s.reference_x[rows], s.mask[rows]),
            layers,
            range(T - first, T - last + 1),
            control,
        )
        pictures.append(s.policy.decode(x[:, -1]).numpy())
    return np.concatenate(pictures)


def figures(s: Setting, target: Pictures) -> dict[str, float]:
    """Gain of the targets over their bases, and distances from base and reference.

    ``from_reference_inside`` and ``from_base_outside`` are small if fusion works: mean absolute difference of
    pixels, 0 to 1, inside the mask (that of at least half of the steps) and outside it.
    """
    inside = enlarge(s.mask.float().mean(dim=1).numpy() >= 0.5, target.shape[1:3])
    scores = score_images(s.reward, s.pairs[["prompt"]], target)
    row = {
        "target_gain": float((scores.reward - s.pairs.base_reward).mean()),
        "reference_lead": float((s.pairs.reference_reward - s.pairs.base_reward).mean()),
    }
    if "right" in scores:
        row["target_right"] = float(scores.right.mean())
    return row | {
        "from_base": distance(target, s.base),
        "from_reference": distance(target, s.reference),
        "from_reference_inside": distance(target, s.reference, inside),
        "from_base_outside": distance(target, s.base, ~inside),
    }


def study_control(s: Setting, folder: Path) -> pd.DataFrame:
    """Figure 8: every variant at the layers and steps of `fuse`; unmasked ones ignore the mask."""
    fuse = s.params.fuse
    layers = fused_layers(s.policy.unet, fuse.layers)
    columns = {"reference": s.reference, "base": s.base}
    rows = []
    for name, variant in VARIANTS.items():
        found = targets(s, layers, fuse.first_t, fuse.last_t, partial(controlling, name=name))
        rows.append({"variant": name, "panel": variant.panel} | figures(s, found))
        columns[f"{name}\n{variant.panel}"] = found
    lines = [line for pair in range(min(SHOWN, len(s.pairs))) for line in pair_lines(s, pair, columns, 6)]
    sheet(lines, TILE).save(folder / "control.png")
    return pd.DataFrame(rows)


def pair_lines(s: Setting, pair: int, columns: dict[str, Pictures], per_line: int) -> list[Line]:
    """One pair's pictures by their titles, as lines of a sheet under its prompt."""
    tiles = [Tile(pictures[pair], title) for title, pictures in columns.items()]
    return [
        Line(tiles[start : start + per_line], "" if start else f"pair {s.pairs.pair[pair]}: {s.pairs.prompt[pair]}")
        for start in range(0, len(tiles), per_line)
    ]


def layer_sets(unet: Any) -> dict[str, tuple[str, ...]]:
    """Figure 9's rows by topology: the middle, around it, from it up without and with the last layer, all."""
    every = present_layers(unet, tuple(layer_paths(unet)))
    m = every.index("mid")
    return {
        "mid": every[m : m + 1],
        "around mid": every[max(0, m - 1) : m + 2],
        "mid, up, not the last": every[m:-1],
        "mid and up": every[m:],
        "all": every,
    }


def windows(steps: int) -> list[tuple[int, int]]:
    """Figure 9's columns, (first, last) fused timestep: all, the paper's 18 of 20 on, later starts, an early stop."""
    starts = [steps, round(0.9 * steps), round(0.75 * steps), round(0.5 * steps)]
    return [*((start, 1) for start in starts), (steps, round(0.5 * steps) + 1)]


def study_layers(s: Setting, folder: Path) -> pd.DataFrame:
    """Figure 9: layers by timesteps, of the first pair, with figures over all pairs."""
    rows = []
    lines = pair_lines(s, 0, {"reference": s.reference, "base": s.base}, 2)
    for name, layers in layer_sets(s.policy.unet).items():
        tiles = []
        for first, last in windows(s.steps):
            found = targets(s, layers, first, last)
            rows.append(
                {"layers": name, "names": " ".join(layers), "first_t": first, "last_t": last} | figures(s, found)
            )
            tiles.append(Tile(found[0], f"t = {first} ... {last}"))
        lines.append(Line(tiles, f"{name}: {' '.join(layers)}"))
    sheet(lines, TILE).save(folder / "layers.png")
    return pd.DataFrame(rows)


@torch.no_grad()
def study_heatmaps(s: Setting, folder: Path) -> None:
    """Figure 10: cross-attention of every word of the first pair's prompt, by timestep, reference above base."""
    prompt = s.pairs.prompt[0]
    tokens = s.policy.tokenizer(prompt).input_ids
    words = [text.removesuffix("</w>") for text in s.policy.tokenizer.convert_ids_to_tokens(tokens)]
    text = s.policy.embed([prompt])
    lines: list[Line] = []
    for label, x, picture in (("reference", s.reference_x[0], s.reference[0]), ("base", s.base_x[0], s.base[0])):
        maps = []
        for i in range(s.steps):
            with capturing(s.policy.unet, s.params.sample.maps) as tap:
                s.policy.predict_noise(x[i : i + 1].to(s.policy.device), i, text)
                maps.append(tap.maps(slice(1, 2))[0].cpu().numpy())
        lines += heat_lines(f"{label}: {prompt}", picture, np.stack(maps), words)
    sheet(lines, TILE // 2).save(folder / "heatmaps.png")


def heat_lines(title: str, picture: Pictures, maps: NDArray[np.float32], words: Sequence[str]) -> list[Line]:
    """A picture, then for each word its maps (step, y, x, token), each word with its own scale."""
    lines = [Line([Tile(picture)], title)]
    for token, word in enumerate(words):
        tiles = [Tile(map, f"t = {len(maps) - i}") for i, map in enumerate(grey(maps[..., token]))]
        lines.append(Line(tiles, word))
    return lines


def study_attention(round: str, count: int, folder: Path) -> dict[str, pd.DataFrame]:
    """Run all three, and write their tables as CSV."""
    s = load_setting(round, count)
    folder.mkdir(parents=True, exist_ok=True)
    study_heatmaps(s, folder)
    tables = {"control": study_control(s, folder), "layers": study_layers(s, folder)}
    for name, table in tables.items():
        table.round(4).to_csv(folder / f"{name}.csv", index=False)
    return tables
