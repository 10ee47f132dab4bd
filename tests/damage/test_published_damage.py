"""Whatever happens to a published file, verify finds it, and so does every stage that would read it before it works."""

from __future__ import annotations

import random
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from harm import ALL, Damage, cut, delete, flip, flip_any, swap
from steps import content, forget, run

from dfusion_core.errors import StoreError
from dfusion_core.store import verify
from dfusion_core.store.manifest import MANIFEST

# Which stages read an output of r00 (of the base's evaluation: of the base), as dvc.yaml lists them.
READERS = {
    "init/train": [("sample", "r00"), ("extract", "r00"), ("fuse", "r00"), ("train", "r00"), ("evaluate", "init")],
    "init/evaluate": [("evaluate", "r00"), ("evaluate", "r01")],
    "r00/sample": [(stage, "r00") for stage in ("score", "extract", "fuse", "adopt", "train")],
    "r00/score": [(stage, "r00") for stage in ("extract", "adopt", "train")],
    "r00/extract": [("fuse", "r00"), ("adopt", "r00")],
    "r00/kv": [("fuse", "r00")],
    "r00/fuse": [("adopt", "r00"), ("train", "r00")],
    "r00/adopt": [("train", "r00")],
    "r00/train": [("sample", "r01"), ("extract", "r01"), ("fuse", "r01"), ("train", "r01"), ("evaluate", "r00")],
}
MENDS = {"init/train": "init", "init/evaluate": "evaluate_base", "r00/kv": "extract@r00"}


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def mend(finished: Path, file: Path) -> None:
    """Put a file back as it was, and nothing beside it."""
    if file.is_dir():
        file.rmdir()
    file.unlink(missing_ok=True)
    file.with_name(f"{file.name}.1").unlink(missing_ok=True)
    shutil.copy2(finished / file, file)


def refused(stage: str, round: str, folder: str, name: str) -> None:
    """The stage stops before it does anything, and says what is damaged and how to mend it."""
    before = files_of(Path("runs"))
    with pytest.raises(StoreError) as caught:
        run(stage, round)
    said = str(caught.value)
    assert f"runs/{folder}/{name}" in said or f"runs/{folder} {name}" in said, said
    stage_of_dvc = MENDS.get(folder, "@".join(reversed(folder.split("/"))))
    assert stage_of_dvc in said and "dvc repro" in said, said
    assert files_of(Path("runs")) == before


@pytest.mark.few(3)
@pytest.mark.parametrize("damage", ALL)
@pytest.mark.parametrize("folder", READERS)
def test_every_file_in_every_way(project: Path, finished: Path, folder: str, damage: Damage) -> None:
    """verify names each damaged file (of kv's forty some); one reader, another each time, refuses."""
    dice, readers = random.Random(f"{folder} {damage.__name__}"), READERS[folder]
    files = files_of(Path("runs", folder))
    for number, file in enumerate(dice.sample(files, 5) if folder == "r00/kv" else files):
        name = str(file.relative_to(Path("runs", folder)))
        damage(file, dice)
        found = verify(Path("runs", folder) if (Path("runs", folder) / MANIFEST).is_file() else "runs")
        assert {str(problem.folder) for problem in found} == {f"runs/{folder}"}
        assert any(problem.file.startswith(name) for problem in found)
        assert all("dvc repro" in str(problem) for problem in found)
        refused(*readers[number % len(readers)], folder, name)
        mend(finished, file)


@pytest.mark.few(5)
@pytest.mark.parametrize(("folder", "stage", "round"), [(f, *r) for f, readers in READERS.items() for r in readers])
def test_every_reader(project: Path, folder: str, stage: str, round: str) -> None:
    """Each of the stages that read an output, with one bit of its largest file turned over."""
    file = max(files_of(Path("runs", folder)), key=lambda path: path.stat().st_size)
    flip(file, file.stat().st_size // 2, 3)
    refused(stage, round, folder, str(file.relative_to(Path("runs", folder))))


@pytest.mark.slow
def test_200_random_bits(project: Path, finished: Path) -> None:
    """100 anywhere in all bytes, 100 in files drawn with equal weight, so that the small ones get their share."""
    dice = random.Random(0)
    files = [file for folder in READERS for file in files_of(Path("runs", folder))]
    sizes = [file.stat().st_size for file in files]
    drawn = dice.choices(files, sizes, k=100) + dice.choices(files, k=100)
    for file in drawn:
        folder = str(Path(*file.parts[1:3]))
        flip_any(file, dice)
        name = str(file.relative_to(Path("runs", folder)))
        assert [problem.file for problem in verify(Path("runs", folder))] == [name]
        refused(*dice.choice(READERS[folder]), folder, name)
        mend(finished, file)


def test_two_files_with_each_others_names(project: Path) -> None:
    swap(Path("runs/r00/train/updates.csv"), Path("runs/r00/train/timesteps.csv"))
    assert {problem.file for problem in verify("runs")} == {"updates.csv", "timesteps.csv"}
    refused("sample", "r01", "r00/train", "timesteps.csv")


def test_the_outputs_of_two_rounds_in_each_others_place(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both are whole, and each says which round it is of."""
    swap(Path("runs/r00/score"), Path("runs/r01/score"))
    assert {(str(one.folder), one.what) for one in verify("runs")} == {
        ("runs/r00/score", "is that of score of r01"),
        ("runs/r01/score", "is that of score of r00"),
    }
    refused("extract", "r00", "r00/score", MANIFEST)
    run("score", "r00")
    assert "score r00: is made again, because " in capsys.readouterr().out


@pytest.mark.few(3)
@pytest.mark.parametrize("damage", [cut, delete, flip_any])
@pytest.mark.parametrize("stage", ["sample", "score", "extract", "fuse", "adopt", "train", "evaluate"])
def test_a_damaged_output_of_ones_own_is_made_again(
    project: Path, finished: Path, capsys: pytest.CaptureFixture[str], stage: str, damage: Damage
) -> None:
    """Never 'is there already'. What comes out is, byte for byte, what was there."""
    folder = Path("runs/r00", stage)
    dice = random.Random(f"{stage} {damage.__name__}")
    damage(dice.choice(files_of(folder)), dice)
    run(stage)
    assert f"{stage} r00: is made again, because " in capsys.readouterr().out
    assert content(folder) == content(finished / folder)


def test_an_output_without_its_manifest(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/r00/train", MANIFEST).unlink()
    assert [str(problem) for problem in verify("runs")] == [
        "runs/r00/train manifest.json: is missing. Bring it back with 'rm -r runs/r00/train' and "
        "'dvc checkout runs/r00/train' if DVC has it, or make it again with 'dvc repro -f -s train@r00'. "
        "If it comes back damaged: 'dfusion verify .dvc/cache'."
    ]
    refused("sample", "r01", "r00/train", MANIFEST)


def test_results_of_a_round(project: Path) -> None:
    """They lie outside; what is no JSON is refused by the stage that reads them."""
    for damage in (b"", b"{", b"\xff\xfe", b"[]", b'{"train": 3}'):
        Path("results/rounds/r01.json").write_bytes(damage)
        with pytest.raises(StoreError, match=r"results/rounds/r01.json .*'dvc repro -f"):
            run("summary")


def test_the_command_line(project: Path) -> None:
    from typer.testing import CliRunner

    from dfusion_core.commands.cli import app

    file = Path("runs/r01/train/optimizer.safetensors")
    flip(file, 1000, 0)
    found = CliRunner().invoke(app, ["verify", "runs"])
    assert found.exit_code == 1 and found.exception is None or isinstance(found.exception, SystemExit)
    assert found.output.splitlines() == [
        "runs/r01/train optimizer.safetensors: checksum differs: the file is damaged. Bring it back with "
        "'rm -r runs/r01/train' and 'dvc checkout runs/r01/train' if DVC has it, or make it again with "
        "'dvc repro -f -s train@r01'. If it comes back damaged: 'dfusion verify .dvc/cache'.",
        "18 folders checked, 1 problems.",
    ]
    for command in (["inspect", "r01/train/updates.csv"], ["report"], ["export", "--no-check"]):
        Path("runs/r01/train/updates.csv").unlink(missing_ok=True)
        found = CliRunner().invoke(app, command)
        assert found.exit_code == 1 and "runs/r01/train/updates.csv is missing" in found.stderr, found


@pytest.mark.parametrize(
    ("folder", "name", "command"),
    [
        ("r01/train", "adapter/pytorch_lora_weights.safetensors", ["export", "--no-check"]),
        ("r00/sample", "arrays.zarr/x/c/0/0/0/0/0", ["inspect", "r00/sample"]),
        ("r00/sample", "arrays.zarr/picture/c/0/0/0/0", ["inspect", "r00/sample/picture", "--picture", "sheet.png"]),
        ("r00/sample", "arrays.zarr/x/zarr.json", ["inspect", "r00/sample"]),
        ("r01/evaluate", "arrays.zarr/picture/c/0/0/0/0", ["report"]),
        ("r01/evaluate", "images.csv", ["report"]),
    ],
)
def test_commands_that_only_look(project: Path, folder: str, name: str, command: list[str]) -> None:
    from typer.testing import CliRunner

    from dfusion_core.commands.cli import app

    flip(Path("runs", folder, name), 40, 1)
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 1 and isinstance(found.exception, SystemExit), found.exception
    assert f"runs/{folder}/{name.split('/c/')[0]}" in found.stderr and "dvc repro" in found.stderr
    assert not Path("exports").exists() and not Path("sheet.png").exists()


def test_a_disk_that_cannot_be_read(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read error of the disk is a problem of that file, not a traceback."""
    module = sys.modules["dfusion_core.store.verify"]
    real = module.hash_file

    def bad(path: Path) -> str:
        if path.name == "scores.csv":
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(module, "hash_file", bad)
    assert [problem.what for problem in verify("runs/r00/score")] == ["cannot be read: Input/output error"]
    forget("adopt")
    refused("adopt", "r00", "r00/score", "scores.csv")


@pytest.mark.parametrize(
    "below", ["runs/exp1/proj", "runs/r00/proj", "runs/r00/train", "runs/init/evaluate", "r00/train"]
)
@pytest.mark.parametrize("file", ["scores.csv", "manifest.json"])
def test_a_project_below_a_folder_runs_is_never_to_be_deleted(project: Path, below: str, file: str) -> None:
    """Only the damaged output is named in a command, quoted, wherever `verify` begins."""
    home = Path("of ann's") / below
    for name in ("params.yaml", "runs/r00/score", "runs/r00/train"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if Path(name).is_dir() else shutil.copy)(name, home / name)
    Path(home, "runs/r00/score", file).unlink()
    for start in (home / "runs/r00/score", home / "runs", home, Path("of ann's")):
        problems = list(map(str, verify(start)))
        assert len(problems) == 1
        removed = [shlex.split(part)[2] for part in problems[0].split("`") if part.startswith("rm ")]
        assert removed == [str(home / "runs/r00/score")]
