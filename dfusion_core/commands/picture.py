"""`dfusion picture`: one picture of a run: pairs of a round, and the same seeds by the base model and every round."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..runtime.entry import guarded

if TYPE_CHECKING:
    from ..evaluation.sheets import Line
    from .report.run import Run

PICTURE = Path("results/picture.png")


@guarded
def picture(
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = PICTURE,
    pairs: Annotated[int, typer.Option(help="Pairs of the last round: reference, base and target.", min=0)] = 3,
    prompts: Annotated[
        int, typer.Option(help="Unseen prompts (else training ones): the same seed in each round.", min=1)
    ] = 4,
) -> None:
    """One picture of the run: some pairs with their targets, and the same seeds before and after each round."""
    import numpy as np

    from ..evaluation.infotext import png
    from ..evaluation.sheets import sheet
    from ..store.atomic import write_bytes
    from .report.run import read_run

    run = read_run()
    lines = [*pair_lines(run.rounds[-1], pairs), *seed_lines(run, prompts)]
    write_bytes(out, png(np.asarray(sheet(lines)), f"{run.title}\n" + "; ".join(line.title for line in lines)))
    print(f"{out}: {len(lines)} lines: pairs of {run.rounds[-1]}, then the same seeds by base, {', '.join(run.shown)}.")


def pair_lines(round: str, count: int) -> list[Line]:
    """Reference, base and target of some pairs with different prompts, of adopted ones if there are any; none without
    targets."""
    from ..evaluation.sheets import Line, Tile
    from ..store.paths import output
    from ..store.reading import read_stage
    from .report.samples import spread

    if not count or not (output("adopt", round) / "targets.csv").is_file():
        return []
    targets = read_stage("adopt", round).table("targets")
    every = (
        read_stage("extract", round).table("pairs").assign(target_reward=targets.target_reward, adopted=targets.adopted)
    )
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
    """The first image of some prompts by the base model and by every round that is shown, with its reward."""
    from ..evaluation.measures import TEST
    from ..evaluation.sheets import Line, Tile
    from ..params.rounds import INIT
    from ..store.reading import read_stage

    stages = {name: read_stage("evaluate", name) for name in (INIT, *run.shown)}
    tables = {name: stage.table("images") for name, stage in stages.items()}
    first = tables[INIT][tables[INIT]["sample"] == 0]
    chosen = (first[first.split == TEST] if (first.split == TEST).any() else first).head(count)
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
        lines.append(Line(tiles, str(row["prompt"])))
    return lines
