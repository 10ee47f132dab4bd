"""`dfusion study`: run a grid of experiments, compare finished cells, study attention control and gradients."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ...runtime.entry import guarded

app = typer.Typer(no_args_is_help=True, help="Compare settings: a grid of experiments from a file.")
File = Annotated[Path, typer.Argument(help="The study, as studies/methods.yaml.")]
STUDIES = Path("results/studies")  # not tracked by git
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help=f"Folder of its results; {STUDIES}/NAME by default.", show_default=False),
]


def _folder(out: Path | None, name: str) -> Path:
    return out or STUDIES / name


@app.command()
@guarded
def run(
    file: File,
    out: Out = None,
    only: Annotated[str, typer.Option(help="Run only cells whose name this regular expression finds.")] = "",
    direct: Annotated[
        bool,
        typer.Option(
            help="Without DVC, a process a cell: much faster where cells are small, and no experiment remains."
        ),
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="With --direct: cells side by side.")] = 1,
) -> None:
    """Run all unfinished cells; the same command continues after an interruption."""
    from .grid import load_study
    from .running import run_study

    study = load_study(file)
    run_study(study, _folder(out, study.name), only, direct, jobs)


@app.command()
@guarded
def table(file: File, out: Out = None) -> None:
    """Compare the finished cells: gains.csv, means.csv, gains.png, curves_train.png and curves_test.png."""
    from rich.console import Console
    from rich.table import Table

    from ...evaluation.labels import SPLITS, label
    from .comparing import CELLS, PROMPTS, QUESTION, gains, means, require_one_reward, require_own_parameters, shown
    from .drawing import draw_curves, draw_gains
    from .grid import load_study
    from .running import read_rows

    study = load_study(file)
    folder = _folder(out, study.name)
    cells, prompts = (read_rows(folder / name, study.factors) for name in (CELLS, PROMPTS))
    require_one_reward(cells, study)
    require_own_parameters(cells, study)
    found = gains(prompts, study)
    found.round(6).to_csv(folder / "gains.csv", index=False)
    means(prompts, study).to_csv(folder / "means.csv", index=False)
    draw_gains(found, folder / "gains.png")
    for split in sorted(set(prompts.split)):
        draw_curves(prompts, cells, study, split, folder / f"curves_{split}.png")
    lines = Table(study.compared, "group", "measure", "prompts", "seeds", "gain over base", f"minus {study.baseline}")
    for row in found.to_dict("records"):
        lines.add_row(
            row["method"],
            row["group"],
            label(row["measure"]),
            SPLITS[row["split"]],
            str(row["seeds"]),
            *(shown(row, key) for key in ("gain", "difference")),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(lines)
    print(f"{QUESTION}\n{len(cells)} of {len(study.cells)} cells; tables and figures are in {folder}.")


@app.command()
@guarded
def attention(
    round: Annotated[str, typer.Argument(help="A finished round, as r00.")] = "r00",
    pairs: Annotated[int, typer.Option(min=1, help="Pairs that every variant is tried on.")] = 24,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the tables and pictures.")] = STUDIES
    / "attention",
) -> None:
    """Appendix B of the paper on a round's pairs: control methods, layers by timesteps, heat maps."""
    from .attention import study_attention

    for name, table in study_attention(round, pairs, out).items():
        print(f"\n{name}\n{table.round(3).to_string(index=False)}")
    print(f"\n{pairs} pairs of {round}; tables and pictures are in {out}.")


@app.command()
@guarded
def gradients(
    round: Annotated[str, typer.Argument(help="A finished round, as r00.")] = "r00",
    pairs: Annotated[int, typer.Option(min=2, help="Pairs that gradients are taken of.")] = 48,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the table.")] = STUDIES / "gradients",
) -> None:
    """Gradients of naive and fused pairs with respect to the adapter, by timestep."""
    from .gradients import study_gradients

    print(study_gradients(round, pairs, out).round(4).to_string(index=False))
    print(f"\n{pairs} pairs of {round}; the table is in {out}.")


@app.command()
@guarded
def directions(
    round: Annotated[str, typer.Argument(help="A finished round, as r00.")] = "r00",
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of each prompt that gradients are taken of.")] = 24,
    images: Annotated[int, typer.Option(min=2, help="Images of each training prompt, before and after.")] = 32,
    size: Annotated[
        list[float] | None,
        typer.Option(min=0, help="Root mean square change of a weight; may be repeated.", show_default="0.002"),
    ] = None,
    timesteps: Annotated[
        list[str] | None,
        typer.Option(help="First and last timestep, as 5-3; may be repeated.", show_default="those trained on"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the table.")] = STUDIES / "directions",
) -> None:
    """Whether a step along the gradient of naive and of fused pairs raises the score."""
    from .directions import study_directions

    table = study_directions(round, pairs, images, size or [2e-3], out, timesteps or [])
    print(table.round(4).to_string(index=False))
    print(f"\n{images} images of each training prompt, on the same seeds; the table is in {out}.")
