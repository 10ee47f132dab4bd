"""A comparison in a terminal, and as a self-contained page."""

from __future__ import annotations

from collections.abc import Sequence

from ...evaluation.labels import SPLITS
from ...evaluation.results import QUESTION, Splits
from ...rewards.identity import describe
from ..report import html
from .numbers import Table, parameter_table, score_table, title
from .pictures import Row
from .sides import Side

WIDTH = 120  # characters, if the output is not a terminal
LONGEST = 60  # characters of a value in a terminal


def print_comparison(sides: Sequence[Side], found: Sequence[Splits]) -> None:
    """The tables of all splits, then the parameters that differ."""
    from rich.console import Console

    console = Console(width=None if Console().is_terminal else WIDTH)
    for split in found[0]:
        heading = f"{SPLITS[split].capitalize()}, same seeds; gains over {title(sides[0])}"
        console.print(_rich(score_table(sides, found, split), heading, numbers=True))
    columns, rows = parameter_table(sides)
    short = [[one if len(one) <= LONGEST else f"{one[: LONGEST - 1]}…" for one in row] for row in rows]
    if rows:
        console.print(_rich((columns, short), "What differs", numbers=False))
    else:
        console.print("All parameters and versions are the same.")
    console.print(f"{QUESTION} Reward: {describe(sides[0].reward)}.", markup=False, highlight=False)


def _rich(table: Table, heading: str, numbers: bool) -> object:
    from rich.markup import escape
    from rich.table import Table as RichTable

    columns, rows = table
    shown = RichTable(title=escape(heading))
    for number, name in enumerate(columns):
        shown.add_column(escape(name), justify="right" if numbers and number else "left", overflow="fold")
    for row in rows:
        shown.add_row(*map(escape, row))
    return shown


def page(sides: Sequence[Side], found: Sequence[Splits], rows: Sequence[Row]) -> str:
    """The same as HTML, with the pictures."""
    parts = [
        html.paragraph(
            f"Gains are over {title(sides[0])}, image by image of the same prompt and seed. {QUESTION} "
            f"Reward: {describe(sides[0].reward)}.",
            "about",
        )
    ]
    for split in found[0]:
        columns, cells = score_table(sides, found, split)
        parts.append(html.heading(SPLITS[split].capitalize()))
        parts.append(html.table(columns, [[one.replace(" [", "\n[") for one in row] for row in cells]))
    columns, cells = parameter_table(sides)
    parts.append(
        html.heading(
            "What differs",
            "From the manifests of the outputs." if cells else "All parameters and versions are the same.",
        )
    )
    parts += [html.table(columns, cells)] if cells else []
    parts.append(html.heading("The same seeds", "With their rewards."))
    shown = (
        f'<div class="pair"><div>{html.text(prompt)}</div>'
        f"{html.pictures(html.image(pixels, label) for label, pixels in tiles)}</div>"
        for prompt, tiles in rows
    )
    parts.append(f'<div class="wrap">{"".join(shown)}</div>')
    return html.document("Comparison: " + ", ".join(map(title, sides)), parts)
