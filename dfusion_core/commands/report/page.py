"""What the report says, section by section."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...adoption.figures import enlarge
from ...evaluation.grading import tile
from ...evaluation.infotext import png
from ...evaluation.results import QUESTION, SPLITS, WATCHED, alignment, images_per_round, read_round_result, table_cells
from ...params import Params, resolved
from ...params.loading import load_everything
from ...params.rounds import INIT, in_order
from ...store.atomic import write_bytes, write_text
from ...store.json_files import read_json
from ...store.paths import output, pairs_result
from ...store.reading import StageData, read_stage
from . import html
from .chart import Line, chart
from .maps import maps
from .methods import methods

ROUNDS_SHOWN = 8  # with pictures; every round is in the tables and curves
PAIRS_SHOWN = 4  # adopted ones, and as many that were not
PROMPTS_SHOWN = 6  # a split, on the grid of fixed seeds
MASK_COLOUR = np.array([255, 0, 200], np.float32)


def write_report(out: Path, studies: Sequence[Path] = ()) -> None:
    """Write the page about the run in this folder, with tables of the studies in ``studies``, and beside it a PNG of
    the grid of fixed seeds. Raises MissingStage naming what has to be run first."""
    everything = load_everything()
    params = Params(rounds=everything.rounds)
    rounds = in_order(params)
    found = {name: read_round_result(name) for name in (INIT, *rounds)}
    title = f"D-Fusion run: {everything.algo} on {everything.pairs} pairs, {len(rounds)} rounds, seed {everything.seed}"
    parts = [results(found), curves(found, rounds), grids(shown(rounds)), figures(rounds)]
    parts += [pairs(name) for name in shown(rounds)] + [maps(rounds[-1], everything), learning(rounds)]
    parts += [methods(study) for study in studies] + [differences(), origin(rounds[-1])]
    write_text(out, html.document(title, parts))
    write_bytes(out.with_suffix(".png"), seeds_grid(shown(rounds)))


def shown(rounds: list[str]) -> list[str]:
    """All rounds, or of many some at equal distances, from the first to the last."""
    places = np.linspace(0, len(rounds) - 1, min(ROUNDS_SHOWN, len(rounds))).round().astype(int)
    return [rounds[place] for place in places]


def results(found: dict[str, Any]) -> str:
    """Base and rounds."""
    return html.heading("Results", "Same prompts and seeds in every row. Below each mean: the gain over the base and "
                        f"its interval; in the base's row, the interval of the mean. {QUESTION}"
                        ) + html.table(*table_cells(found))


def curves(found: dict[str, Any], rounds: list[str]) -> str:
    """Alignment against images seen: the paper's Figure 5."""
    data = alignment(found, images_per_round([INIT, *rounds]))
    parts = [html.heading("Alignment against images seen", "The paper's Figure 5, with 95 % intervals of the mean.")]
    for measure, label in WATCHED.items():
        lines = [Line(SPLITS[s], data.images.tolist(), data[f"{s}_{measure}"].tolist(),
                      data[f"{s}_{measure}_low"].tolist(), data[f"{s}_{measure}_high"].tolist())
                 for s in SPLITS if f"{s}_{measure}" in data]
        if lines:
            parts.append(chart(lines, "images seen", label))
    return "".join(parts)


def grids(rounds: list[str]) -> str:
    """The first image of some prompts, base first, then each round: the same noise all along."""
    parts = [html.heading("The same seeds, round by round", "Left the base model, then the rounds, with the score; of "
                          f"many rounds {ROUNDS_SHOWN}, at equal distances.")]
    stages = {name: read_stage("evaluate", name) for name in (INIT, *rounds)}
    tables = {name: stage.table("images") for name, stage in stages.items()}
    first = tables[INIT][tables[INIT]["sample"] == 0]
    for split, label in SPLITS.items():
        chosen = first[first.split == split].head(PROMPTS_SHOWN)
        if len(chosen):
            parts.append(f"<h3>{html.text(label)}</h3>")
        for image, prompt in zip(chosen.image.tolist(), chosen.prompt.tolist(), strict=True):
            parts.append(f'<div class="pair"><div>{html.text(prompt)}</div>')
            for name, stage in stages.items():
                score = tables[name].set_index("image").reward[image]
                picture = stage.rows("picture", [image])[0]
                parts.append(html.image(picture, f"{'base' if name == INIT else name} {score:.3f}"))
            parts.append("</div>")
    return "".join(parts)


def seeds_grid(rounds: list[str]) -> bytes:
    """The same as a PNG: a row for the base model and each round, a column for each prompt."""
    tables = {name: read_stage("evaluate", name).table("images") for name in (INIT, *rounds)}
    first = tables[INIT][tables[INIT]["sample"] == 0].groupby("split", sort=False).head(PROMPTS_SHOWN)
    pictures = [list(read_stage("evaluate", name).rows("picture", first.image)) for name in tables]
    return png(tile(pictures), "rows: " + ", ".join(tables) + "\ncolumns: " + "; ".join(first.prompt))


def overlay(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The picture with the mask's share over the steps (step, y, x) laid over it."""
    weight = 0.6 * enlarge(mask.mean(axis=0), picture.shape[:2])[..., None]
    mixed = picture * (1 - weight) + MASK_COLOUR * weight
    return np.asarray(mixed.round(), np.uint8)


def figures(rounds: list[str]) -> str:
    """A line for each round's pairs."""
    found = {name: read_json(pairs_result(name)) for name in rounds if pairs_result(name).is_file()}
    columns = list(dict.fromkeys(key for values in found.values() for key in values))
    rows = [[name, *map(values.get, columns)] for name, values in found.items()]
    return html.heading("Pairs, round by round") + html.table(["round", *columns], rows)


def pairs(round: str) -> str:
    """Some triples of a round, if its pairs have targets."""
    if not (output("adopt", round) / "targets.csv").is_file():
        return ""
    pairs = read_stage("extract", round).table("pairs")
    training = pairs.assign(**read_stage("adopt", round).table("targets")[["target_reward", "adopted"]])
    parts = [html.heading(f"Pairs of {round}", "Reference, its mask (strong where it holds at many steps), base, "
                          "target.")]
    for adopted in (True, False):
        some = training[training.adopted == adopted].head(PAIRS_SHOWN)
        if len(some):
            parts.append(f"<h3>{'Adopted' if adopted else 'Not adopted: the reference wins'}</h3>")
        parts += [triple(round, row) for row in some.to_dict("records")]
    return "".join(parts)


def triple(round: str, row: dict[Hashable, Any]) -> str:
    """Reference, mask, base and target of a pair."""
    sampled, extracted, fused = (read_stage(name, round) for name in ("sample", "extract", "fuse"))
    reference, base = sampled.rows("picture", [row["reference_image"], row["base_image"]])
    mask = extracted.rows("mask", [row["reference"]])[0].astype(bool)
    target = fused.rows("picture", [row["pair"]])[0]
    pictures = (html.image(reference, f"reference {row['reference_reward']:.3f}"),
                html.image(overlay(reference, mask), "mask"), html.image(base, f"base {row['base_reward']:.3f}"),
                html.image(target, f"target {row['target_reward']:.3f}"))
    return f'<div class="pair"><div>{html.text(row["prompt"])}</div>{"".join(pictures)}</div>'


def learning(rounds: list[str]) -> str:
    """How far the policy moved from the one before the round: update by update, and by timestep."""
    parts = [html.heading("Learning", "The loss of DPO stays near 0.693 and tells nothing. Margin is the mean "
                          "difference of the winner's and the loser's log-ratio to the policy before the round.")]
    updates = pd.concat([read_stage("train", r).table("updates").assign(round=r) for r in rounds], ignore_index=True)
    number = list(range(1, len(updates) + 1))
    lines = [Line(name.replace("_", " "), number, updates[name].tolist())
             for name in ("margin", "winner_drift", "loser_drift")]
    parts.append(chart(lines, "optimizer step", "mean log-ratio"))
    last = read_stage("train", rounds[-1]).table("timesteps")
    last = last[last["update"] == last["update"].max()].drop(columns="update")
    parts.append(f"<h3>By timestep, last update of {html.text(rounds[-1])}</h3>" + html.frame(last.map(_small)))
    updates.insert(0, "round", updates.pop("round"))
    return "".join(parts) + html.frame(updates.map(_small))


def _small(value: Any) -> Any:
    """Log-ratios are small: four digits, not four decimals."""
    return f"{value:.3g}" if isinstance(value, float) else value


def differences() -> str:
    """Parameters that are not the paper's."""
    rows = [(row.key, json.dumps(value), json.dumps(row.default)) for row, value in resolved(Path("params.yaml"))
            if row.paper != "ours" and value != row.default]
    return html.heading("Where the parameters differ from the paper") + html.table(
        ["parameter", "here", "paper"], rows)


def origin(round: str) -> str:
    """Versions, and what pins the model."""
    stage: StageData = read_stage("train", round)
    pinned = read_json(read_stage("init", INIT).path("pin.json"), "id")
    rows = [*sorted(stage.manifest["environment"].items()), ("model", pinned["id"]),
            ("fingerprint of the last training", stage.manifest["fingerprint"])]
    return html.heading("Versions and origin") + html.table(["what", "value"], rows)
