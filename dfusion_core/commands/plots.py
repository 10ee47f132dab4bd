"""`dfusion plots`: the page of `dvc plots` with vega's scripts inside it, for browsers without a network."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ProjectError, one_line
from ..runtime.entry import guarded

VEGA_LITE = "5."  # what DVC's templates are written in
PAGE = """<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
<title>Plots</title>
<style>body {{ font-family: sans-serif }} table {{ border-spacing: 15px }}</style>
<script>{scripts}</script>
</head>
<body>
{{plot_divs}}
</body>
</html>
"""


@guarded
def plots(
    revisions: Annotated[
        list[str] | None,
        typer.Argument(
            help="Experiments or revisions side by side; without any, what is here now.", show_default=False
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder of the page.")] = Path("dvc_plots"),
) -> None:
    """The page of `dvc plots show` or `dvc plots diff`, with its scripts inside: it opens without a network."""
    page = draw_plots(out, revisions or [])
    print(f"{page}: opens in any browser without a network; its pictures are in {page.parent / 'static'}.")


def draw_plots(out: Path, revisions: list[str]) -> Path:
    """Have DVC draw the page into the folder ``out``; returns its file. Raises ProjectError with what DVC says."""
    template = PAGE.format(scripts=vega_scripts())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(template, encoding="utf-8")
        what = ["diff", *revisions] if revisions else ["show"]
        command = ["plots", *what, "--html-template", str(file), "--out", str(out)]
        done = subprocess.run([sys.executable, "-m", "dvc", *command], capture_output=True, text=True, check=False)
    page = out / "index.html"
    if done.returncode or not page.exists():
        said = one_line(RuntimeError(done.stderr or done.stdout))
        raise ProjectError(
            f"plots: 'dvc plots {' '.join(what)}' drew nothing: {said}",
            "See what there is with 'dvc exp show', or run 'dvc repro' first.",
        )
    return page


def vega_scripts() -> str:
    """JavaScript of vega, vega-lite and vega-embed, about 1 MB. Raises ProjectError where vl-convert is missing."""
    try:
        import vl_convert
    except ImportError as error:
        raise ProjectError(
            f"plots: the package with vega's scripts is not installed ({one_line(error)}).",
            "Install it with 'pip install vl-convert-python', or run 'dvc plots show', whose page needs a network.",
        ) from error
    fitting = [version for version in vl_convert.get_vegalite_versions() if version.startswith(VEGA_LITE)]
    bundle: Any = vl_convert.javascript_bundle  # its stub does not know that None is the whole bundle
    scripts: str = bundle(None, vl_version=fitting[-1] if fitting else None)
    return scripts.replace("</script", "<\\/script")
