"""Curves while a stage trains: dvclive, TensorBoard and Weights & Biases, each read back by its own reader."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from steps import change, content, forget, run

from dfusion_core.errors import ParamsError
from dfusion_core.store import read_stage
from dfusion_core.training import following

ROOT = Path(__file__).parents[2]
VALUES = ("loss", "margin", "gradient_norm")


def seen_by_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name.removeprefix("train/"): [(one.step, one.value) for one in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def seen_by_dvclive(folder: Path) -> dict[str, list[tuple[int, float]]]:
    return {
        file.stem: list(pd.read_csv(file, sep="\t")[["step", file.stem]].itertuples(index=False, name=None))
        for file in (folder / "plots/metrics").glob("*.tsv")
    }


def wandb_records(log: bytes) -> Iterator[bytes]:
    """The records of an offline run's file: after seven bytes LevelDB's log, in blocks of 32 KiB."""
    place, parts = 7, b""
    while place + 7 <= len(log):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        size, kind = struct.unpack("<HB", log[place + 4 : place + 7])
        parts += log[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield parts
            parts = b""


def seen_by_wandb(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.rglob("*.wandb")
    found: dict[str, list[tuple[int, float]]] = {}
    for data in wandb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            row = {item.nested_key[0] if item.nested_key else item.key: item.value_json for item in record.history.item}
            for name, value in row.items():
                if name.startswith("train/"):
                    step = json.loads(row.get("_step", str(record.history.step.num)))
                    found.setdefault(name.removeprefix("train/"), []).append((step, json.loads(value)))
    return found


READERS = {"tensorboard": seen_by_tensorboard, "dvclive": seen_by_dvclive, "wandb": seen_by_wandb}


class Stopped(Exception):
    pass


@pytest.mark.few(1)
@pytest.mark.parametrize("to", READERS)
def test_curves_of_a_run_that_was_stopped(project: Path, to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the first update it shows that one; gone on with, every update once; and results are the same."""
    from dfusion_core.training.trainer import Trainer

    monkeypatch.setenv("WANDB_MODE", "offline")
    before, adapter = read_stage("train", "r00").table("updates"), content(Path("runs/r00/train/adapter"))
    assert len(before) == 2
    change(tracking={"to": to})
    forget("train")
    folder, whole = following.live_folder(to, "r00"), Trainer.update

    def stop_in_the_second(self: Trainer) -> None:
        if self.done:
            assert {len(rows) for rows in (READERS[to](folder) if to != "wandb" else {"": [0]}).values()} == {1}
            raise Stopped
        whole(self)

    monkeypatch.setattr(Trainer, "update", stop_in_the_second)
    with pytest.raises(Stopped):
        run("train")
    monkeypatch.setattr(Trainer, "update", whole)
    if to == "wandb":  # each start is a run of its own there
        shutil.rmtree(folder)
    run("train")
    found = READERS[to](folder)
    for name in VALUES:
        assert [step for step, _ in found[name]] == before["update"].tolist()
        assert [value for _, value in found[name]] == pytest.approx(before[name].tolist(), rel=1e-6)
    assert content(Path("runs/r00/train/adapter")) == adapter


def picture_in_tensorboard(folder: Path) -> Image.Image:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    (one,) = events.Images(following.GRID)
    return Image.open(io.BytesIO(one.encoded_image_string))


def picture_in_dvclive(folder: Path) -> Image.Image:
    (file,) = folder.rglob(f"{following.GRID}.png")
    return Image.open(file)


def picture_in_wandb(folder: Path) -> Image.Image:
    """The file that the offline run's log names."""
    from wandb.proto import wandb_internal_pb2

    (log,) = folder.rglob("*.wandb")
    found: list[Any] = []
    until = time.monotonic() + 30
    while not found:  # its service writes the end of the log after the run has ended
        assert time.monotonic() < until
        time.sleep(0.2)
        for data in wandb_records(log.read_bytes()):
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            record.ParseFromString(data)
            items = record.history.item if record.WhichOneof("record_type") == "history" else ()
            row = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
            found += [row[name] for name in row if name.startswith(following.GRID)]
    named = [one["path"] if isinstance(one, dict) else one for one in found]
    (place,) = {one for one in named if isinstance(one, str) and one.endswith(".png")}
    return Image.open(log.parent / "files" / place)


PICTURES = {"tensorboard": picture_in_tensorboard, "dvclive": picture_in_dvclive, "wandb": picture_in_wandb}


@pytest.mark.few(1)
@pytest.mark.parametrize("to", PICTURES)
def test_the_grid_of_a_round(project: Path, to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a run of its own beside the curves, pixel by pixel the published one, and made once."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    change(tracking={"to": to})
    forget("evaluate")
    run("evaluate")
    folder = following.live_folder(to, "r00.grid")
    shown = np.asarray(PICTURES[to](folder).convert("RGB"))
    published = np.asarray(Image.open("runs/r00/evaluate/grid.png").convert("RGB"))
    assert np.array_equal(shown, published) and published.std() > 1
    shutil.rmtree("live")
    run("evaluate")
    assert not Path("live").exists()


def test_off_by_default(project: Path) -> None:
    forget("train")
    forget("evaluate")
    run("train")
    run("evaluate")
    assert not Path("live").exists()


def test_a_package_that_is_missing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(tracking={"to": "wandb"})
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ParamsError) as caught, following.following("r00", "key", []):
        pass
    said = str(caught.value)
    assert "tracking.to" in said and "pip install wandb" in said


def test_it_is_in_no_fingerprint(project: Path) -> None:
    """A finished stage is not run again because it should have been watched."""
    before = Path("runs/r00/train").stat().st_mtime_ns
    change(tracking={"to": "dvclive"})
    run("train")
    assert Path("runs/r00/train").stat().st_mtime_ns == before and not Path("live").exists()


def test_grids_are_plots_of_dvc(project: Path) -> None:
    """`dvc plots show` puts every round's grid into its page, from the files and without a network."""
    import yaml

    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    Path("dvc.yaml").write_text(yaml.safe_dump({"plots": [one for one in plots if isinstance(one, str)]}))
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "plots", "show", "-o", "page"], check=True, capture_output=True, text=True
    )
    page = Path("page/index.html").read_text()
    shown: Mapping[str, bytes] = {path.name: path.read_bytes() for path in Path("page").rglob("*.png")}
    assert len(shown) == 3 and all(name in page for name in shown), done.stdout
    for round in ("init", "r00", "r01"):
        grid = Path("runs", round, "evaluate/grid.png").read_bytes()
        assert grid in shown.values() and Path(f"results/grids/{round}.png").read_bytes() == grid
