"""Values that no run can have are refused with their limit, and what a message advises mends what it is about."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from steps import run
from typer.testing import CliRunner, Result

from dfusion_core.commands.cli import app
from dfusion_core.errors import DFusionError, ModelError, ParamsError, PromptsError, StoreError
from dfusion_core.models.source import locate
from dfusion_core.params import load_params
from dfusion_core.params.sections import Model
from dfusion_core.params.strict_yaml import parse_yaml, read_yaml
from dfusion_core.prompts.reading import load_prompts
from dfusion_core.store.hints import how_to_make
from dfusion_core.testing import tiny_params

HUGE = 10**30
LIMITS: list[tuple[str, Any]] = [
    ("train.learning_rate", 1e300),
    ("train.learning_rate", 1e39),
    ("train.weight_decay", 1e300),
    ("train.epsilon", 1e30),
    ("train.clip_norm", 1e300),
    ("train.inner_epochs", HUGE),
    ("train.pairs_per_update", HUGE),
    ("train.micro_batch", HUGE),
    ("train.dpo_beta", 1e300),
    ("train.advantage_clip", 1e300),
    ("train.dpok_alpha", 1e300),
    ("train.dpok_beta", 1e300),
    ("seed", 2**63),
    ("seed", 2**64),
    ("seed", -1),
    ("evaluate.seed", 2**64),
    ("evaluate.images_per_prompt", HUGE),
    ("evaluate.batch_size", HUGE),
    ("sample.images_per_prompt", HUGE),
    ("sample.batch_size", HUGE),
    ("sample.guidance_scale", 1e300),
    ("sample.num_steps", 1001),
    ("lora.rank", HUGE),
    ("reward.weight", 1e300),
    ("reward.weight", -1e300),
    ("reward.human", 1e300),
    ("reward.human_answers", 1e300),
    ("reward.batch_size", HUGE),
    ("reward.plugins", {"a:B": 1e300}),
    ("extract.relative_threshold", 1e300),
    ("extract.keep_kv", HUGE),
    ("adopt.threshold", 1e300),
    ("fuse.batch_size", HUGE),
    ("prompts.train_count", HUGE),
    ("prompts.test_count", HUGE),
    ("evaluate.train_count", HUGE),
    ("model.device", "cuda:999999999999999"),
    ("rounds", {}),
    ("rounds", None),
]


def write(key: str, value: Any) -> None:
    section, _, name = key.partition(".")
    tiny_params(Path(), **{section: {name: value} if name else value})


def dfusion(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.mark.few(6)
@pytest.mark.parametrize(("key", "value"), LIMITS, ids=[f"{key}={value}" for key, value in LIMITS])
def test_a_value_beyond_its_limit_is_named(workspace: Path, key: str, value: Any) -> None:
    write(key, value)
    with pytest.raises(ParamsError) as caught:
        load_params("seed")
    assert key in str(caught.value) and "not valid" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.learning_rate", 1),
        ("seed", 2**63 - 1),
        ("evaluate.seed", 2**63 - 1),
        ("sample.num_steps", 1000),
        ("reward.weight", -1.0),
        ("model.device", "cuda:15"),
        ("train.learning_rate", 1e-300),
    ],
)
def test_a_value_at_its_limit_is_accepted(workspace: Path, key: str, value: Any) -> None:
    write(key, value)
    load_params("seed")


@pytest.mark.parametrize(
    "changes",
    [{"evaluate": {"train_count": 0, "test_count": 0}}, {"evaluate": {"train_count": 0}, "prompts": {"test_count": 0}}],
)
def test_nothing_to_evaluate(workspace: Path, changes: dict[str, Any]) -> None:
    tiny_params(workspace, **changes)
    with pytest.raises(ParamsError, match=r"evaluate\.train_count"):
        load_params("seed")


def test_nothing_to_evaluate_because_of_the_prompt_file(project: Path) -> None:
    Path("prompts.yaml").write_text("- a [heart]\n")
    tiny_params(project, evaluate={"train_count": 0})
    with pytest.raises(PromptsError, match=r"evaluate\.train_count"):
        run("evaluate", "init")


@pytest.mark.parametrize("text", ["010", "0o12", "1_0", "0xA", "+10", "10"])
def test_numbers_are_read_by_one_rule(workspace: Path, text: str) -> None:
    """DVC's own reader is asked: what it writes into dvc.lock is what a stage runs with."""
    from dvc.utils.serialize import load_yaml

    Path("params.yaml").write_text(f"seed: {text}\n")
    assert load_params("seed").seed == load_yaml("params.yaml")["seed"]
    assert parse_yaml(f"a: [{text}]") == {"a": [load_yaml("params.yaml")["seed"]]}


@pytest.mark.parametrize("text", ["1e-4", "1E-4", ".0001", "1.0e-4"])
def test_fractions_are_read_by_one_rule(workspace: Path, text: str) -> None:
    Path("params.yaml").write_text(f"train: {{learning_rate: {text}}}\n")
    assert load_params("train").train.learning_rate == 1e-4


@pytest.mark.parametrize("text", ["yes", "on", "2020-01-01", "0b2", "1:30", "08x"])
def test_what_is_no_number_is_refused(workspace: Path, text: str) -> None:
    Path("params.yaml").write_text(f"\n\nseed: {text}\n")
    with pytest.raises(ParamsError, match=r"seed|line 3"):
        load_params("seed")


# --- advice ---


def advised(message: str) -> list[str]:
    """The first command that a message quotes."""
    return shlex.split(re.findall(r"'((?:dvc|dfusion|python) [^']*)'", message)[0])


def test_a_round_behind_the_others_can_be_added_as_advised(workspace: Path) -> None:
    tiny_params(workspace)
    with pytest.raises(ParamsError) as caught:
        run("sample", "r02")
    command = advised(str(caught.value))
    key, _, value = command[command.index("-S") + 1].partition("=")
    assert command[:3] == ["dvc", "exp", "run"] and (key, value) == ("+rounds.r02.prev", "r01")
    rounds = read_yaml(Path("params.yaml"))["rounds"]
    tiny_params(workspace, rounds={**rounds, "r02": {"prev": value}})
    assert load_params("rounds").rounds["r02"].prev == "r01"


@pytest.mark.parametrize(
    ("name", "said"), [("r1", "Did you mean 'r01'"), ("R00", "Did you mean 'r00'"), ("init", "r00, r01")]
)
def test_another_name_of_a_round(workspace: Path, name: str, said: str) -> None:
    tiny_params(workspace)
    with pytest.raises(ParamsError) as caught:
        run("sample", name)
    assert said in str(caught.value) and "+rounds" not in str(caught.value)


@pytest.mark.parametrize(
    ("prev", "said"),
    [
        ("r0", "Did you mean 'r0"),
        ("r09", "init or one of r00, r01"),
        ("int", "Did you mean 'init'"),
        ("r01; touch X", "r01"),
    ],
)
def test_a_round_before_that_does_not_exist(workspace: Path, prev: str, said: str) -> None:
    tiny_params(workspace, rounds={"r00": {"prev": "init"}, "r01": {"prev": prev}})
    with pytest.raises(ParamsError, match=r"rounds\.r01\.prev") as caught:
        load_params("rounds")
    assert said in str(caught.value) and "pattern" not in str(caught.value)


def test_pull_is_advised_only_where_there_is_a_remote(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(workspace))
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    assert "dvc pull" not in how_to_make(Path("runs/r00/sample"))
    subprocess.run(
        [sys.executable, "-m", "dvc", "remote", "add", "-q", "-d", "store", str(workspace / "r")], check=True
    )
    assert "dvc pull" in how_to_make(Path("runs/r00/sample")) and "dvc repro -s sample@r00" in how_to_make(
        Path("runs/r00/sample")
    )


def test_a_missing_folder_is_not_looked_for_on_the_hub(workspace: Path) -> None:
    Path("models").mkdir()
    with pytest.raises(ModelError, match="there is no folder or file 'models/sd15'") as caught:
        locate(Model(id="models/sd15"))
    assert "cannot be reached" not in str(caught.value)


def test_half_characters_of_json_are_to_be_written_whole(tmp_path: Path) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text('["a [heart] \\ud83d\\ude00"]')
    with pytest.raises(PromptsError, match="line 1") as caught:
        load_prompts(file)
    assert "write the character itself" in str(caught.value) and "control" not in str(caught.value)
    file.write_text('["a [heart] \U0001f600"]')
    assert load_prompts(file).train[0].text == "a heart \U0001f600"


def test_files_that_are_not_there(workspace: Path) -> None:
    tiny_params(workspace)
    Path("studies").mkdir()
    Path("studies/mine.yaml").write_text("factors: {m: {naive: {pairs: naive}}}\n")
    done = dfusion("study", "run", "studies/mien.yaml")
    assert done.exit_code == 1 and "there is no such file" in done.stderr and "studies/mine.yaml" in done.stderr
    for command in (
        ["study", "table", "none.yaml"],
        ["thresholds", "--prompts", "none.yaml"],
        ["verify", "none"],
        ["inspect", "r00/none"],
        ["plan", "--params", "none.yaml"],
        ["doctor", "--params", "none.yaml"],
    ):
        done = dfusion(*command)
        assert done.exit_code == 1 and "none" in done.stderr and "Errno" not in done.stderr, done.output
        assert done.stderr.startswith("error: ") and "Traceback" not in done.output


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "r00/sample"],
        ["report"],
        ["plan"],
        ["params"],
        ["export"],
        ["doctor"],
        ["thresholds"],
        ["study", "run", "x.yaml"],
        ["study", "attention"],
        ["verify", "runs"],
    ],
)
def test_outside_of_a_project(workspace: Path, command: list[str]) -> None:
    done = dfusion(*command)
    assert done.exit_code == 1 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["params.yaml", "prompts.yaml"])
def test_a_folder_in_the_place_of_a_file(workspace: Path, name: str) -> None:
    tiny_params(workspace)
    Path(name).unlink()
    Path(name).mkdir()
    with pytest.raises(DFusionError) as caught:
        run("sample")
    assert name in str(caught.value) and "Correct that line" not in str(caught.value)


def test_verify_says_what_it_can_be_given(workspace: Path) -> None:
    from dfusion_core.store.verify import published_folders

    with pytest.raises(StoreError, match="dvc repro"):
        published_folders(Path("elsewhere"))
