"""`dfusion label`: a local page on which people say which image of a prompt is better."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...labelling import PORT
from ...runtime.entry import guarded


@guarded
def label(
    round: Annotated[str, typer.Argument(help="The round whose images are judged, as r00.")],
    targets: Annotated[
        bool, typer.Option("--targets", help="Judge the targets of the round, each beside its reference.")
    ] = False,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes any that is free.", min=0, max=65535)] = PORT,
    labeller: Annotated[
        str,
        typer.Option(
            help="oracle: the micro-world's classifier answers in place of people; careless-oracle: 15 % of it wrong."
        ),
    ] = "",
    take: Annotated[
        Path | None,
        typer.Option("--import", help="Take answers from this .csv, .jsonl or .json file and end (docs/labels.md)."),
    ] = None,
    give: Annotated[
        Path | None,
        typer.Option("--export", help="Write the answers, with paths of images, to this .csv or .jsonl file and end."),
    ] = None,
    columns: Annotated[
        str, typer.Option(help="Of the exported file: pairs, or pickapic (also that of Diffusion-DPO).")
    ] = "pairs",
) -> None:
    """Ask people which image is better, on a local page; answers go to labels/ROUND.csv."""
    from ...labelling.programs import run_program
    from ...labelling.serving import serve_people
    from .sessions import image_session, target_session

    session, pictures = (target_session if targets else image_session)(round)
    if take or give:
        from .exchange import export_answers, import_answers

        if take:
            print(import_answers(take, session, pictures))
        if give:
            print(export_answers(give, session, pictures, columns))
    elif labeller:
        print(run_program(labeller, session, pictures))
    else:
        serve_people(session, pictures.png, host, port)
