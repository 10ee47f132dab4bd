"""`dfusion export`: a round's adapter for a model hub, diffusers, ComfyUI and A1111."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ...runtime.entry import guarded


class Dtype(StrEnum):
    """Precision of kohya's file."""

    fp16 = "fp16"
    fp32 = "fp32"


@guarded
def export(
    round: Annotated[str, typer.Argument(help="A finished round, as r01; the last one by default.")] = "",
    out: Annotated[Path | None, typer.Option(help="The folder to write; exports/ROUND by default.")] = None,
    name: Annotated[str, typer.Option(help="Of the file for ComfyUI and A1111; dfusion-ROUND by default.")] = "",
    dtype: Annotated[Dtype, typer.Option(help="Precision of that file. The other one is fp32.")] = Dtype.fp16,
    force: Annotated[bool, typer.Option("--force", help="Replace files of an earlier export.")] = False,
    merged: Annotated[
        bool, typer.Option("--merged", help="Also write the whole model, fp32, with the adapter in its weights.")
    ] = False,
    check: Annotated[bool, typer.Option(help="Load every file into a fresh model; compare noise predictions.")] = True,
    push: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Upload it to this repository on the Hub.")] = "",
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public; private by default.")] = False,
) -> None:
    """Write a round's adapter in two file formats, with a model card, sample pictures and the commands that made it."""
    if name and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise typer.BadParameter(f"--name {name}: letters, digits, '.', '_' and '-' only; it becomes a file's name.")
    if name in ("pytorch_lora_weights", "adapter_model"):
        raise typer.BadParameter(f"--name {name}: that is the name of another of the files.")
    if push and not re.fullmatch(r"[\w.-]+/[\w.-]+", push):
        raise typer.BadParameter(f"--push {push}: a repository on the Hub is called OWNER/NAME.")
    from .writing import export_round

    export_round(round, out, name, dtype.value, force=force, check=check, merged=merged, repository=push, public=public)
