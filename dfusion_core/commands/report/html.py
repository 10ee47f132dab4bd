"""HTML elements. Texts from prompts, paths and tables are escaped here."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

LARGEST = 224  # pixels of a picture, twice its size on the page, for screens with a high resolution

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --soft: #5a5a5a; --line: #ccc; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #16181b; --soft: #a8a8a8; --line: #444; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1040px;
       margin: 0 auto; padding: 1em; }
h1 { font-size: 1.5em; line-height: 1.25; } h2 { margin-top: 2em; border-bottom: 1px solid var(--line); }
h3 { margin: 1.2em 0 .3em; font-size: 1em; }
.scroll { overflow-x: auto; margin: .6em 0; }
table { border-collapse: collapse; font-size: .87em; } th, td { padding: .25em .7em .25em 0; text-align: left; }
th { border-bottom: 2px solid var(--line); white-space: pre-line; vertical-align: bottom; }
td { border-bottom: 1px solid var(--line); vertical-align: top; white-space: pre-line; overflow-wrap: anywhere; }
td.number { text-align: right; white-space: pre; font-variant-numeric: tabular-nums; }
td.term { min-width: 15em; max-width: 38em; } td small { display: block; color: var(--soft); }
.row { display: flex; flex-wrap: wrap; gap: .4em; } .row figure { width: 110px; }
.four { display: grid; gap: .4em; grid-template-columns: repeat(4, minmax(0, 112px)); }
.steps { display: grid; gap: .2em; grid-template-columns: repeat(auto-fill, minmax(56px, 72px)); }
.wrap { display: flex; flex-wrap: wrap; gap: .8em 1.6em; }
.pair { break-inside: avoid; max-width: 100%; } .chart { flex: 1 1 330px; max-width: 500px; break-inside: avoid; }
.chart svg { width: 100%; height: auto; display: block; } .chart text { font-family: system-ui, sans-serif !important; }
img { image-rendering: pixelated; width: 100%; height: auto; display: block; }
figure { margin: 0; min-width: 0; } figcaption { font-size: .75em; color: var(--soft); overflow-wrap: anywhere; }
dt { font-weight: 600; } dd { margin: 0 0 .3em; }
.note { color: var(--soft); font-size: .9em; } .warning { border-left: 4px solid #d9580d; padding-left: .7em; }
@media print { body { max-width: none; padding: 0; } h2 { break-after: avoid; } .scroll { overflow: visible; } }
@media (max-width: 500px) { body { padding: .8em; } table { font-size: .78em; } td.term { min-width: 11em; } }
"""


class Number(str):
    """A number as formatted text."""


def text(value: object) -> str:
    """Escaped text."""
    return escape(str(value))


def heading(title: str, note: str = "") -> str:
    """A section's title, with an explanation."""
    return f"<h2>{text(title)}</h2>" + paragraph(note)


def paragraph(note: str, kind: str = "note") -> str:
    """A paragraph of class ``kind``; nothing for an empty text."""
    return f'<p class="{kind}">{text(note)}</p>' if note else ""


def cell(value: Any) -> str:
    """A table cell; numbers are right-aligned, in one line, with at most four decimals."""
    if isinstance(value, Number):
        return f'<td class="number">{text(value)}</td>'
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td>{text('' if value is None else value)}</td>"
    shown = f"{value:.4f}" if isinstance(value, float) else str(value)
    return f'<td class="number">{shown}</td>'


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table with a header; a newline separates lines of a cell. Wide tables scroll."""
    head = "".join(f"<th>{text(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def terms(columns: Sequence[str], rows: Iterable[tuple[str, str, Sequence[Any]]]) -> str:
    """A table with a row per quantity: (name, meaning, values)."""
    head = "".join(f"<th>{text(name)}</th>" for name in ("", *columns))
    body = "".join(
        f'<tr><td class="term">{text(name)}<small>{text(meaning)}</small></td>' + "".join(map(cell, values)) + "</tr>"
        for name, meaning, values in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def meanings(rows: Iterable[tuple[str, str]]) -> str:
    """A list of names with their meanings."""
    inside = "".join(f"<dt>{text(name)}</dt><dd>{text(meaning)}</dd>" for name, meaning in rows)
    return f'<dl class="note">{inside}</dl>'


def frame(data: pd.DataFrame) -> str:
    """A table of a whole data frame."""
    return table([str(name).replace("_", " ") for name in data], data.astype(object).itertuples(index=False))


def folded(title: str, content: str) -> str:
    """Folded content with a title."""
    return f"<details><summary>{text(title)}</summary>{content}</details>"


def image(picture: NDArray[np.uint8], caption: str = "") -> str:
    """A picture (y, x, 3) inside the page, with a caption."""
    from PIL import Image

    file, small = io.BytesIO(), Image.fromarray(picture)
    small.thumbnail((LARGEST, LARGEST))
    small.save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<figure><img alt="{text(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def pictures(images: Iterable[str], kind: str = "row") -> str:
    """Images side by side: in a ``row``, in columns of ``four``, or small as ``steps``."""
    return f'<div class="{kind}">{"".join(images)}</div>'


def chart(svg: str) -> str:
    """A chart; two are side by side if there is space."""
    return f'<div class="chart">{svg}</div>'


def document(title: str, parts: Iterable[str]) -> str:
    """The whole page, without external files and scripts."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<style>{STYLE}</style></head><body><h1>{text(title)}</h1>{''.join(parts)}</body></html>\n"
    )
