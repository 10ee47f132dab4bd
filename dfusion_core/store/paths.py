"""Paths of all outputs below ``runs/`` and ``results/``."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import ParamsError, short
from ..params.rounds import INIT

RUNS = Path("runs")
RESULTS = Path("results")
PROMPTS_RESULT = RESULTS / "prompts.json"  # texts and items of the prompts that are used
WEIGHTS_RESULT = RESULTS / "weights.json"  # digests of the built-in weights, in a project without code of its own
LABELS = Path("labels")  # people's answers: an input of the pipeline, tracked by git
ROUND_STAGES = ("sample", "score", "extract", "fuse", "adopt", "train", "evaluate")  # in their order


def output(stage: str, round: str) -> Path:
    """The folder that a stage publishes for a round: ``runs/<round>/<stage>``.

    ``init`` writes what ``train`` writes in every round: ``runs/init/train``. Raises ParamsError for an invalid name of
    a round.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", round):
        raise ParamsError(f"rounds: {short(repr(round))} is no name of a round.", "Rounds are called r00, r01, ... .")
    return RUNS / round / ("train" if stage == INIT else stage)


def adapter(round: str) -> Path:
    """The folder with the adapter that ``train`` (or ``init``) wrote."""
    return output("train", round) / "adapter"


def labels_file(round: str, targets: bool = False) -> Path:
    """The answers about the sampled images of a round, or about the targets made of them."""
    output("sample", round)  # refuses what is no name of a round
    return LABELS / f"{round}{'-targets' if targets else ''}.csv"


def round_result(round: str) -> Path:
    """The metrics file of one round's evaluation."""
    return RESULTS / "rounds" / f"{round}.json"


def grid_result(round: str) -> Path:
    """The pictures of one round's evaluation, for ``dvc plots``."""
    return RESULTS / "grids" / f"{round}.png"


def pairs_result(round: str) -> Path:
    """The metrics file of one round's pairs."""
    return RESULTS / "pairs" / f"{round}.json"


def code_result(stage: str) -> Path:
    """The digests of the code of one command of ``python -m stages``."""
    return RESULTS / "code" / f"{stage}.json"


def training_result(round: str) -> Path:
    """The file of one round's training for the summary."""
    return RESULTS / "training" / f"{round}.json"
