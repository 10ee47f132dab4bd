"""Pictures of the run: fixed seeds by round, pairs with their masks and targets, attention by timestep."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from ...errors import DFusionError
from ...evaluation.infotext import png
from ...evaluation.labels import SPLITS
from ...evaluation.sheets import Line, Tile, grey, overlay, sheet
from ...params.rounds import INIT
from ...prompts.reading import find_file, load_prompts
from ...store.inputs import hash_inputs
from ...store.paths import output
from ...store.reading import StageData, read_stage
from . import html
from .run import Run

PAIRS_SHOWN = 4  # adopted ones, and as many that were not
PROMPTS_SHOWN = 6  # a split, on the grid of fixed seeds


def fixed_seeds(run: Run) -> str:
    """The first image of some prompts from the same noise, by the base model, then by each round."""
    parts = [
        html.heading(
            "The same seeds, round by round",
            "The base model, then the rounds, all from the same noise, with their rewards.",
        )
    ]
    stages = {name: read_stage("evaluate", name) for name in (INIT, *run.shown)}
    tables = {name: stage.table("images") for name, stage in stages.items()}
    first = _first_images(tables[INIT])
    for split, label in SPLITS.items():
        chosen = first[first.split == split]
        if len(chosen):
            parts.append(f"<h3>{html.text(label.capitalize())}</h3>")
        rows = []
        for image, prompt in zip(chosen.image.tolist(), chosen.prompt.tolist(), strict=True):
            pictures = (
                html.image(stage.rows("picture", [image])[0], f"{_name(name)} {tables[name].reward[image]:.3f}")
                for name, stage in stages.items()
            )
            rows.append(f'<div class="pair"><div>{html.text(prompt)}</div>{html.pictures(pictures)}</div>')
        parts.append(f'<div class="wrap">{"".join(rows)}</div>')
    return "".join(parts)


def seeds_sheet(run: Run) -> bytes:
    """The same as a PNG: a row for the base model and for each round, a column for each prompt."""
    first = _first_images(read_stage("evaluate", INIT).table("images"))
    lines = []
    for name in (INIT, *run.shown):
        pictures = read_stage("evaluate", name).rows("picture", first.image)
        lines.append(
            Line([Tile(picture, prompt) for picture, prompt in zip(pictures, first.prompt, strict=True)], _name(name))
        )
    return png(np.asarray(sheet(lines)), "lines: base, then the rounds\ncolumns: " + "; ".join(first.prompt))


def _first_images(images: pd.DataFrame) -> pd.DataFrame:
    return images[images["sample"] == 0].groupby("split", sort=False).head(PROMPTS_SHOWN)


def _name(round: str) -> str:
    return "base" if round == INIT else round


def pairs(round: str) -> str:
    """Some pairs of a round with their targets, if it has any: adopted ones and others, of different prompts."""
    every = with_targets(round)
    if every is None:
        return ""
    parts = [
        html.heading(
            f"Pairs of {round}",
            "The reference; its mask, strong where it holds at many timesteps; the "
            "base, another image of the prompt with a low reward; and the target, which is made from the base's noise "
            "with the reference's keys and values inside the mask. Numbers are rewards.",
        )
    ]
    for adopted, title in (
        (True, "Adopted (Eq. 7): the target has about the reference's reward and is the winner, the base the loser"),
        (False, "Not adopted: the reference is the winner, or the pair is left out"),
    ):
        some = spread(every[every.adopted == adopted], PAIRS_SHOWN)
        if len(some):
            quadruples = "".join(quadruple(round, row) for row in some.to_dict("records"))
            parts.append(f'<h3>{html.text(title)}</h3><div class="wrap">{quadruples}</div>')
    return "".join(parts)


def with_targets(round: str) -> pd.DataFrame | None:
    """The pairs of a round, with the reward of their targets and whether they were adopted; None without targets."""
    if not (output("adopt", round) / "targets.csv").is_file():
        return None
    targets = read_stage("adopt", round).table("targets")
    pairs = read_stage("extract", round).table("pairs")
    return pairs.assign(target_reward=targets.target_reward, adopted=targets.adopted)


def spread(pairs: pd.DataFrame, count: int) -> pd.DataFrame:
    """``count`` of the pairs, of as many prompts as there are: of many prompts some at equal distances."""
    turn = pairs.groupby("prompt_id").cumcount()
    ordered = pairs.assign(turn=turn).sort_values(["turn", "prompt_id"], kind="stable")
    first = ordered[ordered.turn == 0]
    if len(first) >= count:
        return first.iloc[np.linspace(0, len(first) - 1, count).round().astype(int)]
    return ordered.head(count)


def quadruple(round: str, row: dict[Hashable, Any]) -> str:
    """Reference, mask, base and target of a pair."""
    sampled, extracted, fused = (read_stage(name, round) for name in ("sample", "extract", "fuse"))
    reference, base = sampled.rows("picture", [row["reference_image"], row["base_image"]])
    mask = extracted.rows("mask", [row["reference"]])[0].mean(axis=0)
    target = fused.rows("picture", [row["pair"]])[0]
    images = (
        html.image(reference, f"reference {row['reference_reward']:.3f}"),
        html.image(overlay(reference, mask), "mask"),
        html.image(base, f"base {row['base_reward']:.3f}"),
        html.image(target, f"target {row['target_reward']:.3f}"),
    )
    return (
        f'<div class="pair"><div>pair {row["pair"]}: {html.text(row["prompt"])}</div>'
        f"{html.pictures(images, 'four')}</div>"
    )


def attention(round: str) -> str:
    """The paper's Figure 10 for the first pair's reference: each item's map by timestep, and the mask M_t below."""
    extracted, sampled = read_stage("extract", round), read_stage("sample", round)
    pair = extracted.table("pairs").iloc[0]
    maps = sampled.rows("cross_map", [pair.reference_image])[0]
    mask = extracted.rows("mask", [pair.reference])[0]
    picture = sampled.rows("picture", [pair.reference_image])[0]
    parts = [
        html.heading(
            f"Cross-attention by timestep, {round}",
            "The paper's Figure 10: how much each position attends "
            "to an item. White is the largest value of a row; the last row is the mask M_t that fusion uses.",
        ),
        f"<div>{html.text(pair.prompt)}</div>",
        html.pictures([html.image(picture, "reference")]),
    ]
    rows = [
        *((item, grey(maps[:, k])) for k, item in enumerate(items(extracted, pair.prompt, maps.shape[1]))),
        ("mask", [overlay(picture, one) for one in mask]),
    ]
    for title, shown in rows:
        images = (html.image(one, f"t = {len(shown) - i}") for i, one in enumerate(shown))
        parts.append(f"<h3>{html.text(title)}</h3>{html.pictures(images, 'steps')}")
    return "".join(parts)


def items(extracted: StageData, prompt: str, count: int) -> list[str]:
    """The items of a prompt; numbers if the prompt file has changed since the round."""
    made = extracted.manifest["ingredients"]
    try:
        file = find_file(made["params"]["prompts"]["file"])
        if hash_inputs("report", {"prompts": file})["prompts"] == made["inputs"]["prompts"]:
            return list(next(one.items for one in load_prompts(str(file)).train if one.text == prompt))
    except (DFusionError, OSError, KeyError, StopIteration):
        pass
    return [f"item {number}" for number in range(1, count + 1)]
