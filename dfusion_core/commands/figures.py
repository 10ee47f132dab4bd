"""Figures by matplotlib: PNG files of studies, and SVG in the report, with the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import DFusionError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLUMN, ROW = 3.6, 2.8  # inches of one plot
COLOURS = ("#1a78c2", "#d9580d", "#2a9d55", "#a14fa8")  # with enough contrast on white and on dark backgrounds
INK = "#010203"  # replaced by the page's text colour
SVG: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dfusion",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,
}


class FigureError(DFusionError):
    """Figures are wanted and matplotlib is not installed."""


def new_figure(rows: int, columns: int, width: float = COLUMN, height: float = ROW, margin: float = 1.6) -> Any:
    """A figure and its axes (row, column). width, height: inches of one plot. Raises FigureError."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FigureError("figures: matplotlib is not installed.", "pip install 'matplotlib>=3.9'") from error
    figure = Figure(figsize=(width * columns + margin, height * rows), layout="constrained", dpi=110)
    return figure, figure.subplots(rows, columns, squeeze=False)


def line_chart(lines: Mapping[str, Mapping[str, pd.Series]], x_label: str, y_label: str) -> str:
    """An SVG chart of the lines by name; each has columns ``x``, ``y`` and maybe ``low`` and ``high``.

    Empty without points. Its width is that of a phone's page. Raises
    FigureError.
    """
    if not any(len(line["x"]) for line in lines.values()):
        return ""
    new_figure(1, 1)  # raises where there is no matplotlib
    from matplotlib import rc_context

    with rc_context(SVG):
        figure, axes = new_figure(1, 1, 5, 3.2, margin=0)
        axis = axes[0][0]
        for (name, line), colour in zip(lines.items(), COLOURS, strict=False):
            error = [line["y"] - line["low"], line["high"] - line["y"]] if "low" in line else None
            axis.errorbar(line["x"], line["y"], yerr=error, label=name, color=colour, marker="o", ms=4, capsize=2)
        axis.set(xlabel=x_label, ylabel=y_label)
        axis.grid(alpha=0.25)
        figure.legend(loc="outside upper left", ncols=2, frameon=False)
        return as_svg(figure)


def as_svg(figure: Figure) -> str:
    """The figure as an ``svg`` element: no background, the page's text colour, only identifiers that are used."""
    file = io.StringIO()
    figure.patch.set_visible(False)
    for axis in figure.axes:
        axis.patch.set_visible(False)
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL).replace(
        INK, "currentColor"
    )
    used = set(re.findall(r'#([\w.-]+)["\')]', svg))
    return re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
