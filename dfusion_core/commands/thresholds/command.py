"""`dfusion thresholds`: proposes thr_o of Eq. 4 for each item of a prompt file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import MissingStage, PromptsError
from ...runtime.entry import guarded

if TYPE_CHECKING:
    from ...params import Params
    from ...prompts.reading import Prompt
    from .measuring import Measured, Proposal

    Found = Sequence[tuple[Measured, Sequence[Proposal]]]

SECTIONS = ("model", "prompts", "sample", "extract", "fuse", "seed")


@guarded
def thresholds(
    prompts: Annotated[Path | None, typer.Option(help="The prompt file; that of params.yaml by default.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Images of each prompt.")] = 4,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N training prompts.")] = None,
    round: Annotated[str, typer.Option(help="Sample with the adapter of this finished round, as r00.")] = "",
    sheet: Annotated[Path, typer.Option(help="The PNG sheet to judge by.")] = Path("results/thresholds.png"),
    write: Annotated[bool, typer.Option("--write", help="Write the thresholds into the prompt file.")] = False,
) -> None:
    """Sample a few images and propose a mask threshold for each item of the training prompts."""
    from ...params import load_params
    from ...prompts.reading import find_file, load_prompts

    if sheet.suffix.lower() != ".png":
        raise typer.BadParameter(f"--sheet {sheet}: the name must end in .png.")
    params = load_params(*SECTIONS)
    given = prompts or Path(params.prompts.file)
    file = find_file(given)
    chosen = load_prompts(file).train[: limit or (None if prompts else params.prompts.train_count)]
    if write:
        check_writable(given, file, chosen)
    found = _measured(params, chosen, images, _adapter(round), sheet)
    _print_table(found)
    print(f"{len(chosen)} prompts, {images} images of each. {sheet} shows what each threshold takes.")
    _finish(given, found, write, params.extract.threshold)


def check_writable(given: Path, file: Path, chosen: Sequence[Prompt]) -> None:
    """Check before sampling that thresholds can be written to this file. Raises PromptsError."""
    from .writing import with_thresholds

    if file != given:
        raise PromptsError(
            f"thresholds: {given} is a file of the installed package, which is not changed.",
            f"Copy it from {file} into this folder, and set prompts.file to the copy.",
        )
    different = (1 / n for n in count(2))  # different values reveal those shared between prompts
    with_thresholds(file, [tuple(next(different) for _ in prompt.items) for prompt in chosen])


def _adapter(round: str) -> Path | None:
    from ...store.paths import adapter

    folder = adapter(round) if round else None
    if folder and not folder.exists():
        raise MissingStage(f"thresholds: there is no {folder}.", f"Make it with 'dvc repro -s train@{round}'.")
    return folder


def _measured(params: Params, chosen: Sequence[Prompt], images: int, adapter: Path | None, sheet: Path) -> Found:
    from ...runtime.progress import track
    from .drawing import draw_thresholds
    from .measuring import measure, proposals

    progress = track(measure(params, chosen, images, adapter), lambda _: 1, len(chosen), 0, "thresholds")
    found = [(one, proposals(one, params.extract.relative_threshold)) for one in progress]
    draw_thresholds(found, sheet)
    return found


def _print_table(found: Found) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "prompt", "item", "in the file", "proposed (Otsu)", "mask covers (images)", "separability", "relative"
    )
    for measured, proposals in found:
        prompt = measured.prompt
        now = prompt.thresholds or (None,) * len(prompt.items)
        for old, new in zip(now, proposals, strict=True):
            mean = sum(new.covered) / len(new.covered)
            table.add_row(
                prompt.text,
                new.item,
                "" if old is None else f"{old:g}",
                f"{new.threshold:g}",
                f"{mean:.0%} ({min(new.covered):.0%} to {max(new.covered):.0%})",
                f"{new.separability:.2f}",
                f"{new.relative:g}",
            )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _finish(file: Path, found: Found, write: bool, mode: str) -> None:
    """Write the thresholds, or print how to, and whether the pipeline uses them."""
    from .writing import write_thresholds

    if write:
        write_thresholds(file, [tuple(new.threshold for new in proposals) for _, proposals in found])
        print(f"Written into {file}. It is an input of `sample`: 'dvc repro' makes the rounds anew.")
    else:
        print(f"Nothing was written; --write puts the proposed thresholds into {file}.")
    if mode != "absolute":
        print(f"params.yaml has extract.threshold: {mode}, which does not read them; 'absolute' does.")
