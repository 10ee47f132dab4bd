"""`dfusion judge A B`: a blind comparison and its preference rates."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...labelling import PORT
from ...runtime.entry import guarded

if TYPE_CHECKING:
    from .sides import Comparison


@guarded
def judge(
    a: Annotated[str, typer.Argument(help="A round, base, or the folder of an evaluation of another run.")],
    b: Annotated[str, typer.Argument(help="The one that it is compared with.")],
    count: Annotated[int | None, typer.Option(help="Judge the first N images of each prompt only.", min=1)] = None,
    table: Annotated[bool, typer.Option("--table", help="Ask nobody: count the answers that are there.")] = False,
    file: Annotated[Path, typer.Option(help="Where the answers go.")] = Path("judgements.csv"),
    labeller: Annotated[
        str, typer.Option(help="oracle: the micro-world's classifier answers in place of people.")
    ] = "",
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes any that is free.", min=0, max=65535)] = PORT,
) -> None:
    """Compare two rounds, runs or the base model blind: preference rates with exact intervals, and a picture."""
    from ...labelling.programs import run_program
    from ...labelling.serving import serve_people
    from ...labelling.session import Session
    from ...labels.listed import Listed
    from .sides import compared

    found = compared(a, b, count)
    prompts = {name: one.prompt for one in found.questions for name in one.pictures}
    session = Session(file, Listed(found.questions, everybody=True), prompts, "dfusion judge")  # blind: no names
    if labeller:
        print(run_program(labeller, session, found.pictures))
    elif not table:
        serve_people(session, found.pictures.png, host, port)
    _write(found, file)


def _write(found: Comparison, file: Path) -> None:
    """results/judge/A-B.csv, .json and .png, and the table in the terminal."""
    from ...labels.answers import read_answers
    from ...labels.consistency import consistency
    from ...store.atomic import write_text
    from ...store.paths import RESULTS
    from .drawing import draw_rates
    from .rates import agreement, rates, votes

    answers = read_answers(file)
    said = votes(found.pairs, answers)
    if said.empty:
        print(f"judge: {file} has no answer about these images yet.")
        return
    table = rates(said, found.template)
    here = [one for one in answers if one.pair in {frozenset(q.pictures) for q in found.questions}]
    told = {name: consistency(here, name) for name in sorted(set(said.labeller))}
    stem = RESULTS / "judge" / "-".join(re.sub(r"\W+", "_", name).strip("_") for name in found.names)
    facts = {
        "a": found.names[0],
        "b": found.names[1],
        "pairs": len(found.pairs),
        "equal": int((found.pairs.a == found.pairs.b).sum()),
        "rates": table.to_dict("records"),
        "agreement": agreement(said),
        "consistency": {name: {"same": one.same, "repeats": one.repeats} for name, one in told.items()},
    }
    write_text(stem.with_suffix(".csv"), table.to_csv(index=False))
    write_text(stem.with_suffix(".json"), json.dumps(_plain(facts), indent=2) + "\n")
    draw_rates(stem.with_suffix(".png"), table, found.names)
    _say(found, facts, table, stem)


def _say(found: Comparison, facts: dict[str, object], table: object, stem: Path) -> None:
    import pandas as pd
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    assert isinstance(table, pd.DataFrame)
    shown = Table("", "", "answers", *map(escape, found.names), "tie", f"prefer {escape(found.names[1])}")
    for row in table.to_dict("records"):
        rate = "" if pd.isna(row["rate"]) else f"{row['rate']:.0%} [{row['low']:.0%}, {row['high']:.0%}]"
        shown.add_row(
            row["group"],
            escape(str(row["name"])),
            *(str(row[key]) for key in ("answers", "a", "b", "ties")),
            escape(rate),
        )
    Console(width=None if Console().is_terminal else 120).print(shown)
    agreed = facts["agreement"]
    assert isinstance(agreed, dict)
    kappa = "" if agreed["kappa"] is None else f" Cohen's kappa between labellers: {agreed['kappa']:.2f} (mean)."
    equal = f" {facts['equal']} pairs of equal images were not asked." if facts["equal"] else ""
    print(
        f"Rates leave ties out; intervals are exact (Clopper-Pearson), 95 %, over answers.{kappa}{equal}\n"
        f"{stem}.csv, .json, .png"
    )


def _plain(value: object) -> object:
    """NaN has no place in JSON."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and value != value else value
