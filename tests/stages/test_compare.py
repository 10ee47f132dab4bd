"""dfusion compare: rounds, folders, experiments and revisions, on the same seeds and by one reward, or not at all."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from clones import call, environment
from PIL import Image
from steps import change, forget, run
from typer.testing import CliRunner

from dfusion_core.commands.cli import app
from dfusion_core.commands.compare.numbers import gains, parameter_table
from dfusion_core.commands.compare.sides import read_side
from dfusion_core.errors import CompareError
from dfusion_core.evaluation.results import read_results
from dfusion_core.params.rounds import lineage
from dfusion_core.testing import tiny_clip


def compare(*names: str) -> tuple[int, str]:
    """Exit code and all that is printed, in lines of 120 characters."""
    done = CliRunner().invoke(app, ["compare", *names], env={"COLUMNS": "120"})
    return done.exit_code, done.output


def flat(text: str) -> str:
    return " ".join(text.split())


def test_a_round_over_the_base_model_is_what_evaluate_found(project: Path) -> None:
    sides = [read_side(name, Path()) for name in ("init", "r00", "r01")]
    found = gains(sides)
    for number, round in enumerate(("r00", "r01"), 1):
        assert found[number] == read_results(["r00", "r01"]).rounds[round]
    previous = {"r00": "init", "r01": "r00", "r02": "r00"}
    assert lineage("r01", previous) == ["r00", "r01"] and lineage("init", previous) == []
    assert lineage("r02", previous) == ["r00", "r02"]


def test_the_tables_and_the_picture(project: Path) -> None:
    code, out = compare("init", "r00", "r01")
    assert code == 0 and max(map(len, out.splitlines())) <= 120
    numbers = read_results(["r00", "r01"]).rounds["r01"]["train"]["reward"]
    assert f"{numbers['gain']:+.4f} [{numbers['gain_low']:+.4f}, {numbers['gain_high']:+.4f}]" in out
    sheet = np.asarray(Image.open("results/compare.png"))
    base = read_side("init", Path()).evaluated.rows("picture", [0])[0]
    size = base.shape[0] * 4  # enlarged to 64
    tops = [top for top in range(sheet.shape[0] - size) if (sheet[top : top + size : 4, :size:4] == base).all()]
    assert 32 in tops  # the first tile, below a title and a label


def test_gains_are_over_the_first(project: Path) -> None:
    forward = gains([read_side(name, Path()) for name in ("r00", "r01")])[1]["train"]["reward"]
    back = gains([read_side(name, Path()) for name in ("r01", "r00")])[1]["train"]["reward"]
    assert forward["gain"] == pytest.approx(-back["gain"]) and forward["gain_low"] == pytest.approx(-back["gain_high"])
    assert forward["gain"] != 0


def other_project(project: Path, **changes: object) -> Path:
    """Another project beside the first one, of which a round was made with other parameters."""
    other = project / "other"
    shutil.copytree(project, other, ignore=shutil.ignore_patterns("other"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(other)
        change(**changes)
        for round in ("init", "r00"):
            forget("evaluate", round)
            run("evaluate", round)
    return other


@pytest.mark.slow
def test_another_project_and_what_differs(project: Path) -> None:
    other_project(project, evaluate={"batch_size": 2})
    sides = [read_side(name, Path()) for name in ("r00", "other:r00")]
    columns, rows = parameter_table(sides)
    assert columns == ["parameter", "r00", "other:r00"]
    assert rows == [["evaluate.batch_size", "4", "2"]]
    code, out = compare("r00", "other:r00", "--html", "page.html")
    assert code == 0 and "evaluate.batch_size" in out
    page = Path("page.html").read_text()
    assert "evaluate.batch_size" in page and page.count("<img") == 3 * 3
    sources = re.findall(r'src="([^"]{5})', page)
    assert set(sources) == {"data:"}


def test_other_seeds_are_refused_by_name(project: Path) -> None:
    other_project(project, evaluate={"seed": 5})
    code, out = compare("r00", "other:r00")
    assert code == 1 and "evaluate.seed is 1 and 5" in flat(out) and "'other:r00'" in out
    assert "dvc exp run -n NAME -S evaluate.seed=1" in flat(out) and not Path("results/compare.png").exists()


@pytest.mark.slow
def test_another_prompt_file_is_refused(project: Path) -> None:
    other = other_project(project)
    text = (other / "prompts.yaml").read_text()
    (other / "prompts.yaml").write_text(text.replace("a blue and dotted square", "a red and dotted square"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(other)
        for round in ("init", "r00"):
            forget("evaluate", round)
            run("evaluate", round)
    code, out = compare("r00", "other:r00")
    assert code == 1 and "prompt" in out and "dvc repro" in out


def test_another_reward_is_refused_by_name(project: Path) -> None:
    other = project / "other"
    shutil.copytree(project, other, ignore=shutil.ignore_patterns("other"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(other)
        tiny_clip(Path("clip"), seed=1)
        for round in ("init", "r00"):
            forget("evaluate", round)
            run("evaluate", round)
    code, out = compare("r00", "other:r00")
    assert code == 1 and "rewards" in out and "'r00' and 'other:r00'" in out


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("r00",), "dfusion compare init r00"),
        (("r00", "r07"), "dvc repro evaluate@r07"),
        (("r00", "empty"), "empty"),
        (("r00", "nothing"), "'nothing'"),
    ],
)
def test_what_cannot_be_compared(project: Path, names: tuple[str, ...], said: str) -> None:
    (project / "empty" / "runs").mkdir(parents=True)
    code, out = compare(*names)
    assert code == 1 and said in flat(out) and "Traceback" not in out


@pytest.fixture(scope="module")
def experiments(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose run is committed, with the experiment `naive`."""
    folder = tmp_path_factory.mktemp("compared") / "clone"
    shutil.copytree(whole, folder, symlinks=True)
    call(folder, "dvc", "exp", "run", "-q", "-n", "naive", "-S", "algo=dpo", "-S", "pairs=naive")
    return folder


@pytest.mark.slow
def test_an_experiment_and_the_commit_it_was_run_on(experiments: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(experiments)
    for name, value in environment(experiments).items():
        monkeypatch.setenv(name, value)
    code, out = compare("main", "naive")
    assert code == 0, out
    assert re.search(r"pairs +│ \"dfusion\" +│ \"naive\"", out) and "algo" not in out
    page = call(experiments, "dvc", "metrics", "show", "--json")
    assert "train_gain" in page
    code, out = compare("main", "nave")
    assert code == 1 and "Did you mean 'naive'?" in flat(out)
    code, out = compare("main", "main~1")  # before the run: nothing is recorded
    assert code == 1 and "git add dvc.lock" in flat(out)
    with pytest.raises(CompareError, match="dvc exp apply naive"):
        shutil.move(".dvc/cache", ".dvc/away")
        try:
            Path("fetched").mkdir()
            read_side("naive", Path("fetched"))
        finally:
            shutil.move(".dvc/away", ".dvc/cache")


@pytest.mark.slow
def test_dvcs_own_tables_fit_a_terminal(experiments: Path) -> None:
    """After the commit of dvc.lock `main` has numbers, and 120 columns hold them and the parameters that differ."""
    command = ("dvc", "exp", "show", "--only-changed", "--drop", "(runs|results)/.*", "--no-pager")
    shown = call(experiments, *command, env={"COLUMNS": "120"})
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 120 and "…" not in shown and "!" not in shown
    header = next(line for line in lines if "Experiment" in line).split()
    assert {"train", "train_gain", "test", "test_gain", "pairs"} <= {*header}
    assert any("main" in line and "dfusion" in line for line in lines)
    assert any("[naive]" in line and "naive" in line.split()[-1] for line in lines)
    metrics = call(experiments, "dvc", "metrics", "show", env={"COLUMNS": "120"})
    assert max(map(len, metrics.splitlines())) <= 120
