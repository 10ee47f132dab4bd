"""Where each stage's output lies, and which round comes before which."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..microworld.locate import CLIP, WEIGHTS
from .errors import ParamsError, did_you_mean

if TYPE_CHECKING:
    from ..params import Params

MICROWORLD, MICRO_CLIP = "micro-world", "micro-clip"
RUNS = Path("runs")
RESULTS = Path("results")
MODEL_INDEX = "model_index.json"  # in every folder in diffusers format
INIT = "init"  # the "round" of the untouched base model
ROUND_STAGES = ("sample", "score", "extract", "fuse", "adopt", "train", "evaluate")  # in their order


def output(stage: str, round: str) -> Path:
    """The folder that a stage publishes for a round."""
    return RUNS / round / stage


def adapter(round: str) -> Path:
    """The folder with the adapter that ``train`` (or ``init``) wrote."""
    return output("train", round) / "adapter"


def round_result(round: str) -> Path:
    """The metrics file of one round's evaluation."""
    return RESULTS / "rounds" / f"{round}.json"


def pairs_result(round: str) -> Path:
    """The metrics file of one round's pairs."""
    return RESULTS / "pairs" / f"{round}.json"


def training_result(round: str) -> Path:
    """What the summary needs of one round's training."""
    return RESULTS / "training" / f"{round}.json"


def model_source(model_id: str) -> str:
    """The id to load: the built-in model's folder for "micro-world", else the id itself."""
    return str(WEIGHTS) if model_id == MICROWORLD else model_id


def model_name(model_id: str) -> str:
    """A name on the Hub as it is; of a path on this machine only the last part is anybody else's business."""
    return Path(model_id).name if Path(model_id).exists() or Path(model_id).is_absolute() else model_id


def model_inputs(model_id: str) -> dict[str, Path]:
    """The model as an input of ``init``: its folder or file where it is local, so that other weights are noticed."""
    path = Path(model_source(model_id))
    return {"model": path} if path.is_file() or (path / MODEL_INDEX).is_file() else {}  # and not a whole disk


def reward_source(name: str) -> str:
    """What open_clip loads: the built-in model's folder for "micro-clip", else the name itself."""
    return f"local-dir:{CLIP}" if name == MICRO_CLIP else name


def previous(params: Params, round: str) -> str:
    """The round whose adapter ROUND starts from. Raises ParamsError for a round that params.yaml lacks."""
    if round not in params.rounds:
        raise ParamsError(
            f"rounds: params.yaml has no round '{round}', only {', '.join(params.rounds)}.",
            did_you_mean(round, params.rounds) or f"Add it with 'dvc exp run -S +rounds.{round}.prev=LAST'.")
    return params.rounds[round].prev


def in_order(params: Params) -> list[str]:
    """The rounds from the first to the last, each behind the one it starts from."""
    ordered = [INIT]
    while len(ordered) <= len(params.rounds):
        ordered += [name for name, one in params.rounds.items() if one.prev in ordered and name not in ordered]
    return ordered[1:]
