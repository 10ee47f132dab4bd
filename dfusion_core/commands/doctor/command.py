"""`dfusion doctor`: checks everything that a run needs, with remedies."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import ParamsError
from ...runtime.entry import guarded

if TYPE_CHECKING:
    from .runner import Checked

STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


@guarded
def doctor(
    params: Annotated[Path, typer.Option(help="The parameter file.")] = Path("params.yaml"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the tables.")] = False,
) -> None:
    """Check packages, parameters, folder, device, model and reward; exit code 1 if a check fails."""
    if not params.is_file():
        raise ParamsError(
            f"doctor: there is no {params}: {Path.cwd()} is not in a project.",
            "Go to the folder of one, or make one: 'dfusion init DIR'.",
        )
    from rich.console import Console

    from .checks import CHECKS
    from .facts import Facts
    from .runner import run_checks

    with Console(stderr=True).status("") as status:  # shown on a terminal only
        done = list(run_checks(CHECKS, Facts(params), lambda name: status.update(f"checking {name} ...")))
    if as_json:
        print(json.dumps(as_dict(done), indent=2))
    else:
        show(done)
    if failures(done):
        sys.exit(1)


def failures(done: Sequence[Checked]) -> list[str]:
    """The names of the checks that failed."""
    return [one.name for one in done if one.finding.verdict == "failed"]


def as_dict(done: Sequence[Checked]) -> dict[str, Any]:
    """All findings as JSON values."""
    checks = [
        {
            "name": one.name,
            "verdict": one.finding.verdict,
            "found": one.finding.found,
            "remedy": one.finding.remedy,
            "seconds": round(one.seconds, 3),
            "details": [_finite(row) for row in one.finding.details],
        }
        for one in done
    ]
    return {"ok": not failures(done), "seconds": round(sum(one.seconds for one in done), 3), "checks": checks}


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """Values without NaN, which JSON does not have."""
    return {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in row.items()}


def show(done: Sequence[Checked]) -> None:
    """Print the checks, the tables behind them, and a line at the end."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("check", "verdict", "found", "remedy", "s")
    table.columns[3].max_width = 50
    for one in done:
        found = one.finding
        verdict = f"[{STYLES[found.verdict]}]{found.verdict}[/]"
        table.add_row(one.name, verdict, escape(found.found), escape(found.remedy), f"{one.seconds:.1f}")
    console.print(table)
    for title, rows in details(done).items():
        more = Table(*rows[0], title=title, title_justify="left")
        for row in rows:
            more.add_row(*(f"{value:.1e}" if isinstance(value, float) else str(value) for value in row.values()))
        console.print(more)
    console.print(last_line(done))


def details(done: Sequence[Checked]) -> dict[str, list[dict[str, Any]]]:
    """The tables behind the checks, by the name of the check."""
    return {one.name: list(one.finding.details) for one in done if one.finding.details}


def last_line(done: Sequence[Checked]) -> str:
    """The number of checks by verdict, and the total time."""
    verdicts = [one.finding.verdict for one in done]
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in STYLES if name in verdicts)
    return f"{len(done)} checks in {sum(one.seconds for one in done):.0f} s: {counts}."
