"""`dfusion picture`: a picture of a run: pairs of a round, and the same seeds by the base model and every round."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..runtime.entry import guarded

if TYPE_CHECKING:
    import pandas as pd

    from ..evaluation.sheets import Line, Pixels
    from .report.run import Run

PICTURE = Path("results/picture.png")
SIDE, GAP = 128, 24  # pixels of a tile, and between the two parts


@guarded
def picture(
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = PICTURE,
    pairs: Annotated[int, typer.Option(help="Pairs of the last round: reference, base and target.", min=0)] = 4,
    prompts: Annotated[
        int, typer.Option(help="Unseen prompts (else training ones): the same seed by base and rounds.", min=1)
    ] = 4,
) -> None:
    """Draw pairs of the run with their targets, and the same seeds before and after each round."""
    import numpy as np

    from ..evaluation.infotext import png
    from ..evaluation.sheets import sheet
    from ..store.atomic import write_bytes
    from .report.run import read_run

    run = read_run()
    parts = [pair_lines(run.rounds[-1], pairs), seed_lines(run, prompts)]
    pixels = beside([np.asarray(sheet(lines, size=SIDE)) for lines in parts if lines])
    write_bytes(out, png(pixels, f"{run.title}\n" + "; ".join(line.title for lines in parts for line in lines)))
    print(f"{out}: pairs of {run.rounds[-1]}; beside them the same seeds by base, {', '.join(run.shown)}.")


def beside(pictures: list[Pixels]) -> Pixels:
    """Pictures (y, x, rgb) side by side on white."""
    import numpy as np

    height = max(len(one) for one in pictures)
    padded = [np.pad(one, ((0, height - len(one)), (0, GAP), (0, 0)), constant_values=255) for one in pictures]
    joined: Pixels = np.concatenate(padded, axis=1)
    return joined[:, :-GAP]


def pair_lines(round: str, count: int) -> list[Line]:
    """Reference, base and target of some pairs with different prompts, of adopted ones if there are any; none without
    targets."""
    from ..evaluation.sheets import Line, Tile
    from ..store.reading import read_stage
    from .report.samples import spread, with_targets

    every = with_targets(round) if count else None
    if every is None:
        return []
    some = every[every.adopted] if every.adopted.any() else every
    sampled, fused = read_stage("sample", round), read_stage("fuse", round)
    lines = []
    for row in spread(some, min(count, len(some))).to_dict("records"):
        pixels = [
            *sampled.rows("picture", [row["reference_image"], row["base_image"]]),
            fused.rows("picture", [row["pair"]])[0],
        ]
        names = ("reference", "base", "target")
        tiles = [Tile(one, f"{name} {row[f'{name}_reward']:.3f}") for one, name in zip(pixels, names, strict=True)]
        lines.append(Line(tiles, str(row["prompt"])))
    return lines


def seed_lines(run: Run, count: int) -> list[Line]:
    """Images by the base model and, of the same seeds, by every round that is shown, with their rewards.

    Half of them gained most in reward from the base model to the last round, half lost most; prompts differ.
    """
    from ..evaluation.measures import TEST
    from ..evaluation.sheets import Line, Tile
    from ..params.rounds import INIT
    from ..store.reading import read_stage

    stages = {name: read_stage("evaluate", name) for name in (INIT, *run.shown)}
    tables = {name: stage.table("images") for name, stage in stages.items()}
    images = tables[INIT].assign(gain=tables[run.shown[-1]].reward - tables[INIT].reward)
    chosen = extremes(images[images.split == TEST] if (images.split == TEST).any() else images, count)
    pixels = {name: stage.rows("picture", chosen.image) for name, stage in stages.items()}
    lines = []
    for place, row in enumerate(chosen.to_dict("records")):
        tiles = [
            Tile(
                pixels[name][place],
                f"{'base model' if name == INIT else f'after {name}'} {tables[name].reward[row['image']]:.3f}",
            )
            for name in stages
        ]
        what = "gained most" if place < -(-count // 2) else "lost most"
        lines.append(Line(tiles, f"{row['prompt']} ({what})"))
    return lines


def extremes(images: pd.DataFrame, count: int) -> pd.DataFrame:
    """The images of ``count`` different prompts with the largest and the smallest ``gain``, as many of each."""
    import pandas as pd

    ordered = images.sort_values("gain", ascending=False)
    best = ordered.drop_duplicates("prompt").head(-(-count // 2))
    rest = ordered[~ordered.prompt.isin(best.prompt)]
    return pd.concat([best, rest.iloc[::-1].drop_duplicates("prompt").head(count // 2)])
