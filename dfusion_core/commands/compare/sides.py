"""Sides of a comparison: a round of a project, with its evaluation images, their scores, and its parameters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import CompareError, DFusionError
from ...params import load_params
from ...params.rounds import INIT, in_order, lineage
from ...rewards.identity import Identity, read_identity
from ...store.hints import ROUND, dvc_stage
from ...store.manifest import MANIFEST, read_manifest
from ...store.paths import RUNS, output
from ...store.reading import StageData
from ..manifests import parameters
from .revisions import fetch_revision

if TYPE_CHECKING:
    import pandas as pd

HERE = ("workspace", ".")  # names of the project in this folder


@dataclass(frozen=True)
class Side:
    """One side of a comparison. ``images``: the table of its evaluation images."""

    name: str
    round: str
    evaluated: StageData
    base: StageData
    images: pd.DataFrame
    reward: Identity
    parameters: dict[str, str]


def read_side(name: str, temporary: Path, others: Sequence[str] = ()) -> Side:
    """The side of a name: a round of this project, a folder of another one, an experiment or a revision; of
    the last three the last round, or the one after a colon, as in ``naive:r00``.

    temporary: an empty folder for files from DVC. Raises CompareError, or errors of reading, with the name.
    """
    folder, round = find_project(name, temporary, others)
    place = folder.absolute()
    try:
        with chdir(place):
            return _read(name, place, round or last_round())
    except CompareError:
        raise
    except DFusionError as error:
        message = error.message if str(folder) == "." else f"compare: '{name}': {error.message}"
        raise type(error)(message, error.hint) from error


def find_project(name: str, temporary: Path, others: Sequence[str]) -> tuple[Path, str]:
    """The folder that holds a side's outputs, and its round; an empty text for the last one."""
    if re.fullmatch(ROUND, name):
        return Path(), name
    place, round = re.fullmatch(rf"(.+?)(?::({ROUND}))?", name, re.DOTALL).groups("")  # type: ignore[union-attr]
    if place in HERE:
        return Path(), round
    if (Path(place) / RUNS).is_dir():
        return Path(place), round
    return temporary, fetch_revision(place, round, temporary, [*others, *HERE])


def last_round() -> str:
    """The last round of the project in this folder that was evaluated. Raises CompareError if there is none."""
    rounds = in_order(load_params("rounds"))
    found = [name for name in rounds if (output("evaluate", name) / MANIFEST).is_file()]
    if not found:
        raise CompareError(f"compare: no round is evaluated in {Path.cwd()}.", "Run 'dvc repro' there.")
    return found[-1]


def _read(name: str, folder: Path, round: str) -> Side:
    """The side, read in its folder, which is the current one."""
    rounds = lineage(round, {name: one.prev for name, one in load_params("rounds").rounds.items()})
    evaluated, base = (_evaluation(name, folder, one) for one in (round, INIT))
    return Side(
        name,
        round,
        evaluated,
        base,
        evaluated.table("images"),
        read_identity(evaluated),
        made_with(rounds) | {"rounds": ", ".join(rounds) or "none"},
    )


def _evaluation(name: str, folder: Path, round: str) -> StageData:
    place = folder / output("evaluate", round)
    if not (place / MANIFEST).is_file():
        raise CompareError(
            f"compare: '{name}': {round} is not evaluated: there is no {place / MANIFEST}.",
            f"Make it with 'dvc repro {dvc_stage(round, 'evaluate')}' in {folder}.",
        )
    return StageData(place)


def made_with(rounds: Sequence[str]) -> dict[str, str]:
    """Every parameter with its values as text, from the manifests, and the versions of libraries of the evaluation."""
    found = {one.row.key: one.value for one in parameters(rounds)}
    last = output("evaluate", rounds[-1] if rounds else INIT)
    versions = read_manifest(last).get("environment", {})
    return found | {f"version of {name}": str(value) for name, value in versions.items()}
