"""The comparisons of `dfusion judge`, as in the paper's Figure 6."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from ...errors import StoreError
from ...store.json_files import read_json
from ...store.paths import RESULTS
from . import html

KEYS = ("a", "b", "rates", "agreement")


def judged() -> str:
    """A table and a picture of each comparison in results/judge; empty if there is none. Raises StoreError."""
    files = sorted((RESULTS / "judge").glob("*.json"))
    if not files:
        return ""
    note = (
        "Blind comparisons of images of the same prompts and seeds. The rate leaves ties out; intervals are exact, "
        "95 %, over answers."
    )
    return html.heading("Judged by people", note) + "".join(map(_comparison, files))


def _comparison(file: Path) -> str:
    found = read_json(file, *KEYS)
    try:
        rows = [_row(one) for one in found["rates"]]
        kappa = found["agreement"]["kappa"]
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"report: {file} holds no comparison.",
            f"Make it again with 'dfusion judge {found['a']} {found['b']} --table'.",
        ) from error
    columns = ["", "", "answers", str(found["a"]), str(found["b"]), "tie", f"prefer {found['b']}"]
    agreed = "" if kappa is None else f"Cohen's kappa between labellers, mean of pairs: {kappa:.2f}."
    return (
        f"<h3>{html.text(found['a'])} against {html.text(found['b'])}</h3>"
        + html.table(columns, rows)
        + html.paragraph(agreed)
        + _picture(file.with_suffix(".png"))
    )


def _row(one: dict[str, Any]) -> list[Any]:
    rate = "" if one["rate"] is None else f"{one['rate']:.0%} [{one['low']:.0%}, {one['high']:.0%}]"
    return [one["group"], one["name"], one["answers"], one["a"], one["b"], one["ties"], rate]


def _picture(file: Path) -> str:
    if not file.is_file():
        return ""
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<div class="chart"><img alt="preference rates" src="data:image/png;base64,{data}"></div>'
