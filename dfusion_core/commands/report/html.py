"""Pieces of HTML. Whatever comes from a prompt, a path or a table is escaped here."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

WIDE = 8  # more columns than these do not fit the page at full size
LARGEST = 192  # pixels of a picture; the page shows half as many, and a screen may have two for one

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1000px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { margin-top: 2em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 1em 0; } th, td { padding: .25em .7em; text-align: left; }
th { border-bottom: 2px solid #888; white-space: pre; }
td { border-bottom: 1px solid #ddd; vertical-align: top; white-space: pre; }
table.wide { font-size: .8em; } .wide th, .wide td { padding: .2em .5em; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
img { image-rendering: pixelated; width: 96px; height: 96px; display: block; }
figure { display: inline-block; margin: .3em .3em .3em 0; } figcaption { font-size: .8em; color: #555; }
.pair { break-inside: avoid; display: inline-block; vertical-align: top; margin: 0 1.5em .6em 0; }
.steps img { width: 64px; height: 64px; }
.note { color: #555; font-size: .9em; }
svg text { font: 12px system-ui, sans-serif; fill: #444; }
@media print { body { max-width: none; margin: 0; } h2 { break-after: avoid; } }
"""


def text(value: object) -> str:
    """Escaped text."""
    return escape(str(value))


def heading(title: str, note: str = "") -> str:
    """A section's title, with a sentence on how to read it."""
    return f"<h2>{text(title)}</h2>" + (f'<p class="note">{text(note)}</p>' if note else "")


def cell(value: Any) -> str:
    """A table cell; numbers stand right with at most four decimals."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td>{text('' if value is None else value)}</td>"
    shown = f"{value:.4f}" if isinstance(value, float) else str(value)
    return f'<td class="number">{shown}</td>'


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], wide: bool = False) -> str:
    """A table with a header. Names of columns are broken where they have a _; wide tables are set smaller."""
    head = "".join(f"<th>{text(name.replace('_', chr(10)))}</th>" for name in columns)
    body = "".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows)
    kind = ' class="wide"' if wide or len(columns) > WIDE else ""
    return f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def frame(data: pd.DataFrame) -> str:
    """A table of a whole data frame."""
    return table(list(map(str, data.columns)), data.astype(object).itertuples(index=False))


def image(picture: NDArray[np.uint8], caption: str = "") -> str:
    """A picture (y, x, 3) inside the page, with a caption."""
    from PIL import Image

    file, small = io.BytesIO(), Image.fromarray(picture)
    small.thumbnail((LARGEST, LARGEST))
    small.save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return (f'<figure><img alt="{text(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{text(caption)}</figcaption></figure>")


def document(title: str, parts: Iterable[str]) -> str:
    """The whole page. It loads nothing from anywhere, and runs no script."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            f"<style>{STYLE}</style></head><body><h1>{text(title)}</h1>{''.join(parts)}</body></html>\n")
