"""What a stage depends on changes while it runs: it publishes nothing, says what changed, and keeps its work."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from steps import change, content, forget, run

from dfusion_core.errors import StoreError
from dfusion_core.store.parts import Parts
from dfusion_core.store.run import StageRun

Edit = Callable[[], object]


def meanwhile(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, edit: Edit) -> None:
    """Make `edit` once, after the first call of a method."""
    real: Callable[..., Any] = getattr(owner, method)
    todo = [edit]

    def call(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        if todo:
            todo.pop()()
        return found

    monkeypatch.setattr(owner, method, call)


def parts(stage: str) -> int:
    return len(list(Path(".dfusion/r00", stage).rglob("parts/*.safetensors")))


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("stage", "method", "changes", "key"),
    [
        ("sample", "write_arrays", {"sample": {"eta": 0.5}}, "sample.eta"),
        ("sample", "write_table", {"prompts": {"train_count": 1}}, "prompts.train_count"),
        ("score", "write_arrays", {"reward": {"weight": 2.0}}, "reward.weight"),
        ("extract", "write_arrays", {"pairing": {"mode": "top_quarter_twice"}}, "pairing.mode"),
        ("fuse", "write_arrays", {"fuse": {"first_t": 2}}, "fuse.first_t"),
        ("adopt", "write_table", {"adopt": {"threshold": 0.1}}, "adopt.threshold"),
        ("train", "save_state", {"train": {"learning_rate": 0.5}}, "train.learning_rate"),
        ("train", "write_table", {"seed": 3}, "seed"),
        ("evaluate", "write_arrays", {"evaluate": {"seed": 7}}, "evaluate.seed"),
    ],
)
def test_parameters(
    project: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    method: str,
    changes: dict[str, Any],
    key: str,
) -> None:
    forget(stage)
    with monkeypatch.context() as patch, pytest.raises(StoreError) as caught:
        meanwhile(patch, StageRun, method, lambda: change(**changes))
        run(stage)
    assert key in caught.value.message and f"dvc repro {stage}@r00" in caught.value.hint
    assert not Path("runs/r00", stage).exists()
    assert parts(stage) or method != "write_arrays"
    shutil.copy(finished / "params.yaml", "params.yaml")  # put back: it goes on with what is there
    run(stage)
    assert content(Path("runs/r00", stage)) == content(finished / "runs/r00" / stage)


def test_an_edit_that_the_stage_does_not_read_is_none_of_its_business(
    project: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another section, a comment, another order, another round."""
    forget("score")
    text = Path("params.yaml").read_text()
    meanwhile(
        monkeypatch,
        StageRun,
        "write_arrays",
        lambda: (
            change(train={"learning_rate": 0.5}, rounds={"r00": {"prev": "init"}}),
            Path("params.yaml").write_text(f"# a comment\n{Path('params.yaml').read_text()}"),
        ),
    )
    run("score")
    assert Path("params.yaml").read_text() != text
    assert content(Path("runs/r00/score")) == content(finished / "runs/r00/score")


@pytest.mark.parametrize(
    "edit", [lambda: Path("params.yaml").unlink(), lambda: Path("params.yaml").write_text("sample: [")]
)
def test_parameters_that_can_no_longer_be_read(project: Path, monkeypatch: pytest.MonkeyPatch, edit: Edit) -> None:
    forget("score")
    meanwhile(monkeypatch, StageRun, "write_arrays", edit)
    with pytest.raises(StoreError, match="not published.*params.yaml"):
        run("score")
    assert not Path("runs/r00/score").exists()


def test_the_round_before(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree("runs/r01/sample")
    meanwhile(
        monkeypatch, StageRun, "write_arrays", lambda: change(rounds={"r00": {"prev": "init"}, "r01": {"prev": "init"}})
    )
    with pytest.raises(StoreError, match="rounds.r01 changed"):
        run("sample", "r01")


@pytest.mark.slow
def test_the_second_output_of_a_command(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`extract` has published its masks; DVC would record what they do not have when `kv` is done as well."""
    for stage in ("extract", "kv"):
        forget(stage)
    run("code")
    run("prompts")
    monkeypatch.setenv("DVC_STAGE", "extract@r00")
    real = StageRun.write_arrays

    def write(this: StageRun, *args: Any) -> None:
        real(this, *args)
        if this.stage == "kv":
            change(pairing={"mode": "top_quarter_twice"})  # kv itself does not read it

    monkeypatch.setattr(StageRun, "write_arrays", write)
    with pytest.raises(StoreError, match="pairing.mode"):
        run("extract")
    assert not Path("runs/r00/kv").exists()


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("stage", "file"),
    [
        ("extract", "prompts.yaml"),
        ("score", "clip/open_clip_model.safetensors"),
        ("evaluate", "clip/open_clip_config.json"),
    ],
)
def test_files(project: Path, monkeypatch: pytest.MonkeyPatch, stage: str, file: str) -> None:
    """The prompt file, and the reward's."""
    forget(stage)
    with monkeypatch.context() as patch, pytest.raises(StoreError) as caught:
        meanwhile(patch, StageRun, "write_arrays", lambda: Path(file).write_bytes(Path(file).read_bytes() + b" "))
        run(stage)
    name = "prompts" if file == "prompts.yaml" else "reward"
    assert f"the input '{name}' changed" in caught.value.message
    assert not Path("runs/r00", stage).exists()


@pytest.mark.few(1)
@pytest.mark.parametrize("stage", ["sample", "evaluate"])
def test_texts(project: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    forget(stage)
    other = Path("prompts.yaml").read_text().replace("moon", "sun")
    meanwhile(monkeypatch, StageRun, "write_arrays", lambda: Path("prompts.yaml").write_text(other))
    with pytest.raises(StoreError, match="the input 'texts' changed"):
        run(stage)
    assert not Path("runs/r00", stage).exists()


def test_a_file_that_is_gone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget("sample")
    meanwhile(monkeypatch, StageRun, "write_arrays", Path("prompts.yaml").unlink)
    with pytest.raises(StoreError, match="not published.*prompts"):
        run("sample")


def test_the_model(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree("runs/init/train")
    weights = next(Path("model/unet").glob("*.safetensors"))
    meanwhile(monkeypatch, StageRun, "write_table", lambda: weights.write_bytes(weights.read_bytes() + b"\0"))
    with pytest.raises(StoreError, match="the input 'model' changed"):
        run("init", "init")
    assert not Path("runs/init/train").exists()


@pytest.fixture
def other_sample(project: Path) -> Path:
    """A sound output of the same stage and round, of other parameters."""
    shutil.copytree("runs/r00/sample", "kept")
    change(sample={"eta": 0.5})
    run("sample")
    Path("runs/r00/sample").rename("other")
    Path("kept").rename("runs/r00/sample")
    change()
    return Path("other")


def exchange(folder: Path, other: Path) -> None:
    folder.rename("away")
    other.rename(folder)
    Path("away").rename(other)


@pytest.mark.few(1)
@pytest.mark.parametrize("back", [False, True])
def test_an_input_is_swapped_for_that_of_another_run(
    other_sample: Path, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    """Also where the first one is back in its place before the stage ends."""
    forget("score")
    sample = Path("runs/r00/sample")
    real, calls = Parts.write, []

    def write(this: Parts, *args: Any) -> None:
        real(this, *args)
        calls.append(1)
        if len(calls) == 1 or len(calls) == 2 and back:
            exchange(sample, other_sample)

    monkeypatch.setattr(Parts, "write", write)
    change(reward={"batch_size": 2})
    with pytest.raises(StoreError, match="runs/r00/sample .*replaced"):
        run("score")
    assert not Path("runs/r00/score").exists()


def test_an_input_is_swapped_at_the_very_end(other_sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget("score")
    meanwhile(monkeypatch, StageRun, "write_table", lambda: exchange(Path("runs/r00/sample"), other_sample))
    with pytest.raises(StoreError, match="the input 'sample' changed"):
        run("score")
    assert not Path("runs/r00/score").exists()


def test_an_output_that_is_there_already_is_not_confirmed_either(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC would record the new value for it."""
    meanwhile(monkeypatch, StageRun, "__enter__", lambda: change(reward={"weight": 2.0}))
    with pytest.raises(StoreError, match="reward.weight"):
        run("score")
