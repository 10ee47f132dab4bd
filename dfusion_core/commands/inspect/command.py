"""`dfusion inspect`: arrays, tables and files of an output, or a sheet of one array."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ...errors import StoreError
from ...runtime.entry import guarded


@guarded
def inspect(
    path: Annotated[Path, typer.Argument(help="A stage's output, as r00/sample; or an array in it, as r00/sample/x.")],
    picture: Annotated[Path | None, typer.Option(help="Write a labelled sheet to this PNG file.")] = None,
    array: Annotated[str, typer.Option(help="The array to draw; needed if PATH holds several.")] = "",
    rows: Annotated[str, typer.Option(help="The rows to draw, as 0:8 or 3.")] = "0:8",
) -> None:
    """Show arrays, tables and files of an output, or draw one array with --picture."""
    from rich.console import Console

    from .tree import locate, tree

    if picture is None:
        Console(width=None if sys.stdout.isatty() else 200).print(tree(path))
        return
    if picture.suffix.lower() != ".png":
        raise typer.BadParameter(f"--picture {picture}: the name must end in .png.")
    _draw(*locate(path), picture, array, _row_range(rows))


def _draw(folder: Path, inside: str, picture: Path, name: str, rows: slice) -> None:
    from io import BytesIO

    from ...store.atomic import write_bytes
    from ...store.reading import StageData
    from .picture import draw

    data = StageData(folder)
    names = data.names
    name = name or inside or (names[0] if len(names) == 1 else "")
    if not name:
        raise StoreError(f"inspect: {folder} has the arrays {', '.join(names)}.", "Choose one with --array NAME.")
    chosen = range(data.array(name).shape[0])[rows]
    if not chosen:
        raise StoreError(
            f"inspect: there are no such rows; '{name}' has {data.count}.", f"Rows are given as --rows 0:{data.count}."
        )
    buffer = BytesIO()
    draw(data, name, chosen).save(buffer, "PNG")
    write_bytes(picture, buffer.getvalue())
    print(f"{picture}: {len(chosen)} rows of {name}.")


def _row_range(text: str) -> slice:
    first, colon, last = text.partition(":")
    try:
        start = int(first or 0)
        stop = int(last) if last else None
    except ValueError:
        raise typer.BadParameter(f"--rows {text}: rows are given as 0:8 or 3.") from None
    return slice(start, stop if colon else start + 1 or None)
