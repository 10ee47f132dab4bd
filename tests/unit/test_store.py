"""The store: what is published is complete, checked, read by Zarr and xarray, and always the same bytes."""

import gc
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray
import zarr

from dfusion_core.errors import BadNumber, MissingStage, StoreError
from dfusion_core.store import StageRun, open_stage, read_stage, verify
from dfusion_core.store.provenance import hash_file

ROWS, BATCH, T = 10, 4, 3


def arrays(rows: range, scale: float = 1.0) -> dict[str, Any]:
    shape = (len(rows), T + 1, 2, 4, 4)
    x = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None, None, None, None] * np.ones(shape, np.float32)
    return {"x": x * scale, "log_prob": x[:, :T, 0, 0, 0], "_number": np.arange(rows.start, rows.stop)}


def run_sample(round: str = "r00", **params: Any) -> None:
    with open_stage("sample", round=round, params={"sample": params}) as run:
        if not run.done:
            for rows in run.unfinished(ROWS, BATCH):
                run.write(rows, **arrays(rows))
            run.write_table("lines", pd.DataFrame({"image": run.collect("_number"), "score": np.arange(ROWS) / 7}))
            run.path("adapter/file.txt").write_text("weights")


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hash_file(path) for path in folder.rglob("*") if path.is_file()}


def test_arrays_and_tables_come_back(workspace: Path) -> None:
    run_sample()
    data = read_stage("sample", "r00")
    np.testing.assert_array_equal(data.array("x")[:], arrays(range(ROWS))["x"])
    assert (data.table("lines").score == np.arange(ROWS) / 7).all()  # exactly
    assert data.path("adapter/file.txt").read_text() == "weights"
    assert data.manifest["rows"] == ROWS
    assert verify("runs") == []
    assert not list(workspace.glob(".dfusion/r00/sample*/*"))


def test_garbage_is_collected_while_rows_are_made(workspace: Path) -> None:
    seen = []
    gc.disable()  # as `run_stage` does, so that imports are not looked through
    try:
        with open_stage("sample", round="r00") as run:
            seen.append(gc.isenabled())
            for rows in run.unfinished(ROWS, BATCH):
                seen.append(gc.isenabled())
                run.write(rows, **arrays(rows))
        seen.append(gc.isenabled())
    finally:
        gc.enable()
    assert seen == [False, True, True, True, False]
    run_sample()
    assert gc.isenabled()


def test_zarr_and_xarray_read_it_with_dimension_names_and_units(workspace: Path) -> None:
    run_sample()
    path = workspace / "runs/r00/sample/arrays.zarr"
    group = zarr.open(path, mode="r")
    assert isinstance(group, zarr.Group)
    assert group["log_prob"][7, 0] == 7
    data = xarray.open_zarr(path, consolidated=False)
    assert data["x"].dims == ("image", "state", "channel", "height", "width")
    assert "x" in data.data_vars
    assert data["log_prob"].attrs["unit"] == "nats per latent element (mean)"
    assert float(data["x"].isel(image=9).mean()) == 9


def test_bool_arrays_of_zeros_are_stored(workspace: Path) -> None:
    with open_stage("extract", round="r00") as run:
        for rows in run.unfinished(3, 2):
            run.write(rows, mask=np.zeros((len(rows), T, 8, 8), bool))
    array = read_stage("extract", "r00").array("mask")
    assert array.dtype == bool
    assert not array[:].any()
    assert list(Path("runs/r00/extract/arrays.zarr/mask/c").rglob("0"))


def test_keys_and_values_are_nested_arrays(workspace: Path) -> None:
    with open_stage("kv", round="r00") as run:
        assert run.expect(3, 2) == [range(0, 2), range(2, 3)]
        for rows in run.unfinished(3, 2):
            run.write_arrays(rows, {"up_1.0/K": np.ones((len(rows), T, 2, 2, 4, 4), np.float16)})
    data = read_stage("kv", "r00")
    assert data.array("up_1.0/K").shape == (3, T, 2, 2, 4, 4)
    assert data.array("up_1.0/K").dtype == np.float32
    assert xarray.open_zarr("runs/r00/kv/arrays.zarr", group="up_1.0", consolidated=False)["K"].dims[0] == "reference"
    with pytest.raises(StoreError, match=r"it has up_1.0/K. Did you mean 'up_1.0/K'"):
        data.array("up_1.0/V")


def test_two_publishes_are_equal_byte_by_byte(workspace: Path) -> None:
    run_sample()
    first = files(workspace / "runs/r00/sample")
    shutil.rmtree("runs")
    run_sample()
    assert files(workspace / "runs/r00/sample") == first


def test_a_manifest_names_no_host_time_or_path(workspace: Path) -> None:
    run_sample()
    text = Path("runs/r00/sample/manifest.json").read_text()
    assert str(workspace) not in text
    assert os.uname().nodename not in text
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n"


def test_a_done_stage_says_so_and_does_nothing(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_sample(eta=1.0)
    with open_stage("sample", round="r00", params={"sample": {"eta": 1.0}}) as run:
        assert run.done
        assert run.expect(ROWS, BATCH) == []
        run.write(range(BATCH), **arrays(range(BATCH)))
    assert capsys.readouterr().out == "sample r00: is there already (10 rows); nothing to do.\n"


def test_another_fingerprint_replaces_the_output_and_says_why(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_sample(eta=1.0)
    run_sample(eta=0.5)
    assert "is made again, because sample.eta changed from 1.0 to 0.5." in capsys.readouterr().out
    assert read_stage("sample", "r00").manifest["ingredients"]["params"] == {"sample": {"eta": 0.5}}
    assert sorted(path.name for path in Path("runs/r00").iterdir()) == ["sample"]


def test_scratch_on_another_folder_and_dvc_root(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(workspace / "root"))
    run_sample("r00")
    assert len(list((workspace / "root/.dfusion/experiments").glob("*/r00/sample.lock"))) == 1
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.setenv("DFUSION_SCRATCH", str(workspace / "elsewhere"))
    run_sample("r01")
    first = list(workspace.glob("elsewhere/*/r01/sample.lock"))
    assert len(first) == 1
    (workspace / "clone").mkdir()
    monkeypatch.chdir(workspace / "clone")  # another project, which has a level of its own
    run_sample("r01")
    assert len(list(workspace.glob("elsewhere/*/r01/sample.lock"))) == 2


@pytest.mark.parametrize("place", ["runs", "runs/r00/x", "./results", "results/../runs/deep", "link"])
def test_scratch_is_refused_among_the_outputs(workspace: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    Path("results").mkdir()
    Path("link").symlink_to("results")
    for given in (place, str(workspace / place)):
        monkeypatch.setenv("DFUSION_SCRATCH", given)
        with pytest.raises(StoreError, match="DFUSION_SCRATCH is .*unset DFUSION_SCRATCH"):
            run_sample()
    monkeypatch.setenv("DFUSION_SCRATCH", "runs-of-mine")  # only the name begins alike
    run_sample()


def test_experiments_side_by_side_leave_each_other_alone(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in `dvc queue start -j 2`: two folders, one repository, other parameters; each goes on where it was."""
    monkeypatch.setenv("DVC_ROOT", str(workspace / "root"))

    def start(folder: str, eta: float, last: int) -> None:
        (workspace / folder).mkdir(exist_ok=True)
        monkeypatch.chdir(workspace / folder)
        with open_stage("sample", round="r00", params={"sample": {"eta": eta}}) as run:
            for rows in run.unfinished(ROWS, BATCH):
                run.write(rows, **arrays(rows))
                if rows.stop == last:
                    raise KeyboardInterrupt

    for folder, eta in (("one", 1.0), ("two", 0.5)):
        with pytest.raises(KeyboardInterrupt):
            start(folder, eta, last=BATCH)
    capsys.readouterr()
    for folder, eta in (("one", 1.0), ("two", 0.5)):
        start(folder, eta, last=0)
        assert capsys.readouterr().out == f"sample r00: continues; {BATCH} of {ROWS} rows were finished before.\n"


def test_an_experiment_waits_for_another_that_makes_the_same(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(workspace / "root"))
    first = open_stage("sample", round="r00")
    first.__enter__()
    free = threading.Timer(0.3, first._lock.release)
    free.start()
    with open_stage("sample", round="r00") as second:
        assert first._lock._file.closed
        for rows in second.unfinished(ROWS, BATCH):
            second.write(rows, **arrays(rows))
    assert "makes the same; waiting for it." in capsys.readouterr().out


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_scratch_on_another_disk(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = Path("/dev/shm") / f"dfusion-test-{os.getpid()}"
    monkeypatch.setenv("DFUSION_SCRATCH", str(scratch))
    try:
        run_sample(eta=1.0)
        run_sample(eta=0.5)
    finally:
        shutil.rmtree(scratch)
    assert verify("runs") == []
    assert sorted(path.name for path in Path("runs/r00").iterdir()) == ["sample"]


def test_inputs_are_part_of_the_fingerprint(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_sample(eta=1.0)
    Path("note.txt").write_text("a")

    def score() -> StageRun:
        return open_stage("score", round="r00", inputs={"sample": Path("runs/r00/sample"), "note": "note.txt"})

    with score() as run:
        run.write_table("scores", pd.DataFrame({"score": [1.0]}))
    with score() as run:
        assert run.done
    run_sample(eta=0.5)  # other parameters, but the same files: nothing to do for the next stage
    with score() as run:
        assert run.done
    Path("note.txt").write_text("b")
    capsys.readouterr()
    with score() as run:
        assert not run.done
    assert "because the input 'note' changed" in capsys.readouterr().out


def test_a_missing_stage_names_the_next_command(workspace: Path) -> None:
    with pytest.raises(MissingStage, match="'dvc repro -s sample@r03'"):
        read_stage("sample", "r03")
    with pytest.raises(MissingStage, match="'dvc repro -s extract@r03'"):
        read_stage("kv", "r03")
    with pytest.raises(MissingStage, match="'dvc repro -s init'"):
        open_stage("sample", round="r00", inputs={"lora": Path("runs/init")})


def test_a_second_process_is_refused(workspace: Path) -> None:
    with open_stage("adopt", round="r00"):
        with pytest.raises(StoreError, match=rf"stage adopt of r00 is being run by pid {os.getpid()} on "):
            open_stage("adopt", round="r00").__enter__()
        with open_stage("adopt", round="r01"):
            pass
    with open_stage("adopt", round="r00") as run:
        assert run.done


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"y": np.zeros((4, 2))}, "there is no array 'y'"),
        ({"log_prob": np.zeros(4)}, "its dimensions are"),
        ({"log_prob": np.zeros((3, 2))}, "for 4 rows"),
        ({"picture": np.zeros((4, 2, 2, 3))}, "is float64, the schema says uint8"),
    ],
)
def test_what_the_schema_does_not_know_is_refused(workspace: Path, values: dict[str, Any], expected: str) -> None:
    with pytest.raises(StoreError, match=expected), open_stage("sample", round="r00") as run:
        run.expect(ROWS, BATCH)
        run.write(range(BATCH), **values)
    assert not Path("runs").exists()


def test_a_bad_number_is_located(workspace: Path) -> None:
    x = np.zeros((4, T + 1, 2, 4, 4))
    x[2, 1, 0, 3, 3] = np.nan
    with pytest.raises(BadNumber) as caught, open_stage("sample", round="r00") as run:
        run.expect(ROWS, BATCH)
        run.describe = lambda row: f"prompt 'a cat', sample {row}"
        run.write(range(4, 8), x=x, log_prob=np.zeros((4, T)))
    assert "sample: 'x' of r00 has a nan at image 6, prompt 'a cat', sample 6, state 1 (t = 2)." in str(caught.value)
    with pytest.raises(BadNumber, match="inf at image 0, i 2"), open_stage("sample", round="r00") as run:
        run.expect(ROWS, BATCH)
        run.write(range(4), log_prob=np.array([[0, 0, 1e300]] * 4))


def test_unwritten_rows_are_not_published(workspace: Path) -> None:
    expected = "1 of 3 parts of r00 were not written, the first is rows 8 to 9"
    with pytest.raises(StoreError, match=expected), open_stage("sample", round="r00") as run:
        for rows in run.unfinished(ROWS, BATCH):
            if rows.start == 8:
                break
            run.write(rows, **arrays(rows))
    assert not Path("runs").exists()


def test_parts_of_different_shapes_are_not_published(workspace: Path) -> None:
    with pytest.raises(StoreError, match="parts of r00 differ"), open_stage("sample", round="r00") as run:
        for rows in run.unfinished(ROWS, BATCH):
            run.write(rows, log_prob=np.zeros((len(rows), 2 + rows.start)))


def test_no_rows_at_all_is_an_output_too(workspace: Path) -> None:
    with open_stage("kv", round="r00") as run:
        assert list(run.unfinished(0, 4)) == []
    data = read_stage("kv", "r00")
    assert data.manifest["rows"] == 0
    with pytest.raises(StoreError, match="holds no arrays"):
        _ = data.arrays


def test_state_is_replaced_and_comes_back(workspace: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_stage("train", round="r00") as run:
        assert run.load_state() is None
        run.save_state({"w": np.zeros(2)}, {"step": 1})
        run.save_state({"w": np.ones((2, 2)).T, "n": np.array(3)}, {"step": 2, "loss": [0.5]})
        raise KeyboardInterrupt
    with open_stage("train", round="r00") as run:
        state = run.load_state()
        assert state is not None
        assert state[1] == {"step": 2, "loss": [0.5]}
        assert state[0]["w"].tolist() == [[1, 1], [1, 1]]
        assert state[0]["n"] == 3
    assert list(files(workspace / "runs/r00/train")) == ["manifest.json"]


def damage(what: str) -> None:
    folder = Path("runs/r00/sample")
    shard = next(path for path in (folder / "arrays.zarr/x/c").rglob("*") if path.is_file())
    data = shard.read_bytes()
    if what == "bit":
        shard.write_bytes(data[:100] + bytes([data[100] ^ 4]) + data[101:])
    elif what == "cut":
        shard.write_bytes(data[:-8])
    elif what == "missing":
        shard.unlink()
    elif what == "extra":
        (folder / "extra.csv").write_text("a\n")
    elif what == "list":
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"]["lines.csv"]["sha256"] = "0" * 64
        (folder / "manifest.json").write_text(json.dumps(manifest))
    else:
        (folder / "manifest.json").write_text("{")


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("bit", "checksum differs"),
        ("cut", "the manifest says"),
        ("missing", "is missing"),
        ("extra", "is not in the manifest"),
        ("list", "its checksum differs"),
        ("json", "cannot be read"),
    ],
)
def test_damage_is_found(workspace: Path, what: str, expected: str) -> None:
    run_sample()
    damage(what)
    found = "\n".join(map(str, verify("runs/r00/sample")))
    assert expected in found
    assert "dvc repro -f -s sample@r00" in found
    if what != "bit":
        with pytest.raises(StoreError):
            read_stage("sample", "r00")


def test_one_flipped_bit_stops_a_reader(workspace: Path) -> None:
    run_sample()
    damage("bit")
    expected = r"arrays.zarr/x: a chunk cannot be read: .*checksum.* 'dvc repro -f -s sample@r00'"
    with pytest.raises(StoreError, match=expected):
        read_stage("sample", "r00").rows("x", range(ROWS))


def test_a_damaged_output_is_made_again(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_sample()
    damage("missing")
    run_sample()
    assert "is made again, because arrays.zarr/x" in capsys.readouterr().out
    assert verify("runs") == []
    damage("json")
    run_sample()
    assert verify("runs") == []


def test_unknown_tables_and_files_list_what_there_is(workspace: Path) -> None:
    run_sample()
    data = read_stage("sample", "r00")
    with pytest.raises(StoreError, match="it has lines. Did you mean 'lines'"):
        data.table("line")
    with pytest.raises(StoreError, match="Did you mean 'adapter/file.txt'"):
        data.path("adapter/fil.txt")
    with pytest.raises(StoreError, match="no published output at nowhere"):
        verify("nowhere")
