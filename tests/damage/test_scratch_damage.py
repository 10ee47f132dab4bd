"""What an interrupted run left in scratch is not believed either: damaged pieces are made again, to the same bytes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harm import cut, flip, flip_any, put
from steps import content, forget, run

from dfusion_core.errors import StoreError
from dfusion_core.store import tensors
from dfusion_core.store.parts import Parts
from dfusion_core.store.run import StageRun


def interrupt(monkeypatch: pytest.MonkeyPatch, stage: str, owner: type, method: str, after: int) -> None:
    """Run the stage until it has called `method` so many times."""
    forget(stage)
    real, calls = getattr(owner, method), [0]

    def stopping(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        calls[0] += 1
        if calls[0] == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, method, stopping)
        run(stage)


@pytest.mark.few(1)
@pytest.mark.parametrize("damage", [flip_any, cut])
@pytest.mark.parametrize("stage", ["sample", "score", "fuse", "evaluate"])
def test_a_damaged_part(
    project: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    damage: Any,
) -> None:
    interrupt(monkeypatch, stage, Parts, "write", after=1)
    (part,) = Path(".dfusion/r00", stage).rglob("parts/*.safetensors")
    damage(part, random.Random(stage))
    capsys.readouterr()
    run(stage)
    said = capsys.readouterr().out
    assert f"{stage} r00: makes 1 damaged part of an earlier run again." in said and "continues" not in said
    assert content(Path("runs/r00", stage)) == content(finished / "runs/r00" / stage)


def test_a_part_damaged_while_the_stage_runs(
    project: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is found when the parts are put together; the same command then makes that part again."""
    forget("sample")
    real = Parts.write

    def rots(self: Parts, rows: range, *args: Any) -> None:
        real(self, rows, *args)
        if rows.start == 4:
            flip(self.path(range(4)), -9, 2)

    with (
        monkeypatch.context() as patch,
        pytest.raises(
            StoreError, match=r"parts/00000000-00000004.safetensors is damaged: .* Run the same command again"
        ),
    ):
        patch.setattr(Parts, "write", rots)
        run("sample")
    assert not Path("runs/r00/sample").exists()
    capsys.readouterr()
    run("sample")
    assert "continues; 4 of 8 rows were finished before." in capsys.readouterr().out
    assert content(Path("runs/r00/sample")) == content(finished / "runs/r00/sample")


@pytest.mark.few(1)
@pytest.mark.parametrize("damage", [flip_any, cut])
def test_a_damaged_state_of_training(
    project: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: Any
) -> None:
    interrupt(monkeypatch, "train", StageRun, "save_state", after=1)
    (state,) = Path(".dfusion/r00/train").rglob("state.safetensors")
    damage(state, random.Random(1))
    capsys.readouterr()
    run("train")
    assert "train r00: its saved state is damaged; starts from the beginning." in capsys.readouterr().out
    assert content(Path("runs/r00/train")) == content(finished / "runs/r00/train")


def test_notes_of_an_earlier_run_that_cannot_be_read(
    project: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ingredients.json only explains; without it the work goes on."""
    interrupt(monkeypatch, "sample", Parts, "write", after=1)
    (notes,) = Path(".dfusion/r00/sample").rglob("ingredients.json")
    put(notes, b"\xff{")
    run("sample")
    assert "continues; 4 of 8" in capsys.readouterr().out
    assert content(Path("runs/r00/sample")) == content(finished / "runs/r00/sample")


def test_every_byte_of_a_part(workspace: Path) -> None:
    """A bit of the header, of the checksums or of an array: an error, never other numbers."""
    arrays = {"x": np.arange(12, dtype=np.float32).reshape(3, 4), "_n": np.array([True, False, True])}
    file = Path("part.safetensors")
    whole = tensors.to_bytes(arrays, {"step": 3})
    for position in range(len(whole)):
        file.write_bytes(whole)
        flip(file, position, position % 8)
        try:
            found, meta = tensors.read(file)
        except StoreError as error:
            assert f"{file} is damaged" in error.message
        else:  # a space of the header's padding
            assert meta == {"step": 3} and found.keys() == arrays.keys()
            assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
