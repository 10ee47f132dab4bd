"""The `dfusion` command. Heavy libraries are imported inside the commands, so that --help is immediate."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from ..errors import one_printable_line
from ..runtime.checkout import note_other_code
from ..runtime.entry import guarded
from ..runtime.project import InProject
from ..runtime.streams import outlive_readers
from .compare.command import compare
from .doctor.command import doctor
from .export.command import export
from .init.command import init
from .inspect.command import inspect
from .judge.command import judge
from .label.command import label
from .picture import picture
from .plan.command import plan
from .plots import plots
from .profile import profile
from .prune.command import prune
from .study.command import app as study
from .thresholds.command import thresholds

app = typer.Typer(
    help="Look at, check and configure the runs of a D-Fusion pipeline. The runs themselves: dvc repro.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
app.add_typer(study, name="study")
for command in study.registered_commands:
    command.cls = InProject
for function in (inspect, compare, picture, plots, export, thresholds, plan, doctor, label, judge, prune):
    app.command(cls=InProject)(function)
for function in (init, profile):  # these make a project
    app.command()(function)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"dfusion {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Shared options."""
    outlive_readers()
    note_other_code()


@app.command(cls=InProject)
@guarded
def verify(
    paths: Annotated[list[Path], typer.Argument(help="Outputs, folders with outputs in them, as runs; or .dvc/cache.")],
) -> None:
    """Compare every file of outputs with the hashes in their manifests; exit code 1 if something is wrong."""
    from ..store.dvc_cache import check_cache, is_cache
    from ..store.verify import published_folders, verify_one

    caches = [path for path in paths if is_cache(path)]
    folders = [folder for path in paths if path not in caches for folder in published_folders(path)]
    problems = [problem for folder in folders for problem in verify_one(folder)]
    problems += [problem for cache in caches for problem in check_cache(cache)]
    for problem in problems:
        print(one_printable_line(str(problem)))
    print(f"{len(folders) + len(caches)} folders checked, {len(problems)} problems.")
    if problems:
        sys.exit(1)


@app.command(cls=InProject)
@guarded
def params(
    path: Annotated[Path, typer.Option(help="The parameter file.")] = Path("params.yaml"),
) -> None:
    """List every parameter: its value here, its default, the origin of the default, and its meaning."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ..params import resolved

    table = Table("parameter", "value", "default", "from", "meaning", box=None)
    for row, value in resolved(path):
        source = "ours" if row.paper == "ours" else "paper"
        cells = (
            row.key,
            _shown(value),
            "" if value == row.default else _shown(row.default),
            source,
            row.description,
        )
        table.add_row(*map(escape, cells), style=None if value == row.default else "bold")
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@app.command(cls=InProject)
@guarded
def report(
    out: Annotated[Path, typer.Option(help="The page to write; a PNG of the fixed seeds goes beside it.")] = Path(
        "results/report.html"
    ),
    study: Annotated[
        list[Path] | None,
        typer.Option(
            help="A study's folder, whose table of methods is shown as well; may be repeated.", show_default=False
        ),
    ] = None,
) -> None:
    """Write a self-contained HTML page about the run in this folder."""
    from .report import write_report

    write_report(out, study or [])
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, opens in any browser without a server. "
        f"{out.with_suffix('.png').name}: the fixed seeds, a row a round."
    )


def _shown(value: object) -> str:
    import json

    return json.dumps(value)


if __name__ == "__main__":
    app()
