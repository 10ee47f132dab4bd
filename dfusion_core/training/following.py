"""Curves of training while it runs, and each round's grid of pictures, for dvclive, TensorBoard or Weights & Biases.

No result depends on them. Each start of a stage writes the curves of its round anew from the saved history, so that a
resumed run has neither a gap nor an update twice. All is in the folder live.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ..errors import ParamsError, one_line
from ..params import load_everything
from ..runtime.ranks import leads

Row = Mapping[str, float]  # one optimizer step, as in updates.csv
SHARED = {"algo", "pairs", "seed", "lora", "sample", "extract", "fuse", "pairing", "adopt", "train"}  # no paths
GRID = "fixed_seeds"  # name of the pictures
PROJECT = "dfusion"  # in Weights & Biases, where $WANDB_PROJECT names none


class Follower(Protocol):
    """Where curves and pictures go."""

    def show(self, step: int, values: Mapping[str, float]) -> None: ...

    def show_picture(self, file: Path) -> None: ...

    def close(self) -> None: ...


@contextmanager
def following(round: str, key: str, history: Sequence[Row]) -> Iterator[Callable[[Row], None]]:
    """Yields a function that logs an optimizer step of ROUND to ``tracking.to``, after those of ``history``.

    key: the fingerprint of the run. Raises ParamsError if the package is not installed or fails to start.
    """
    to = load_everything().tracking.to
    if to == "none" or not leads():
        yield lambda row: None
        return
    follower = _start(to, round, key)

    def show(row: Row) -> None:
        values = {name: float(value) for name, value in row.items() if name != "update"}
        follower.show(int(row["update"]), values)

    try:
        for row in history:
            show(row)
        yield show
    finally:
        follower.close()


def show_grid(round: str, key: str, file: Path) -> None:
    """Show the evaluation pictures of ROUND, a PNG file, where ``tracking.to`` says: a run of its own, `ROUND.grid`.

    key: the fingerprint of the evaluation. Raises ParamsError where the package is not installed or does not start.
    """
    to = load_everything().tracking.to
    if to == "none" or not leads():
        return
    follower = _start(to, f"{round}.grid", key)
    try:
        follower.show_picture(file)
    finally:
        follower.close()


def live_folder(to: str, round: str) -> Path:
    """live/PROGRAM/EXPERIMENT/ROUND at the project's root, also from the copy in which a queued experiment runs."""
    experiment = os.environ.get("DVC_EXP_NAME") or "workspace"
    return Path(os.environ.get("DVC_ROOT") or ".", "live", to, experiment, round)


def _start(to: str, round: str, key: str) -> Follower:
    folder = live_folder(to, round)
    if to != "wandb":  # which names a folder for each start itself
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return FOLLOWERS[to](folder, round, key)
    except ImportError as error:
        raise ParamsError(
            f"tracking.to: {to} is not installed ({one_line(error)}).",
            f"Install it with 'pip install {PACKAGES[to]}', or set tracking.to to none.",
        ) from error
    except Exception as error:  # a server that refuses, no login: errors of the program's own
        raise ParamsError(
            f"tracking.to: {to} does not start: {one_line(error)}.",
            "Log in ('wandb login'), set the variable WANDB_MODE to offline, or set tracking.to to none.",
        ) from error


class _Dvclive:
    def __init__(self, folder: Path, round: str, key: str) -> None:
        from dvclive import Live

        self.live = Live(str(folder), report=None, save_dvc_exp=False, dvcyaml=None, monitor_system=False)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        self.live.step = step
        for name, value in values.items():
            self.live.log_metric(name, value, timestamp=False)
        self.live.make_summary()

    def show_picture(self, file: Path) -> None:
        self.live.log_image(f"{GRID}.png", str(file))

    def close(self) -> None:
        self.live.end()


class _TensorBoard:
    def __init__(self, folder: Path, round: str, key: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder))

    def show(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"train/{name}", value, step)
        self.writer.flush()

    def show_picture(self, file: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(file) as picture:
            self.writer.add_image(GRID, np.asarray(picture.convert("RGB")), 0, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    """Offline if $WANDB_MODE says so; `wandb sync` uploads the files."""

    def __init__(self, folder: Path, round: str, key: str) -> None:
        import wandb

        experiment = folder.parent.name
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=f"{experiment} {round}",
            group=experiment,
            config={"fingerprint": key, **load_everything().model_dump(mode="json", include=SHARED)},
            dir=str(folder.absolute()),  # its service may have been started in another folder
            settings=wandb.Settings(silent=True),
        )

    def show(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({f"train/{name}": value for name, value in values.items()}, step=step)

    def show_picture(self, file: Path) -> None:
        import wandb

        self.run.log({GRID: wandb.Image(str(file))})

    def close(self) -> None:
        self.run.finish()


FOLLOWERS: dict[str, Callable[[Path, str, str], Follower]] = {
    "dvclive": _Dvclive,
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
}
PACKAGES = {"dvclive": "dvclive", "tensorboard": "tensorboard", "wandb": "wandb"}
