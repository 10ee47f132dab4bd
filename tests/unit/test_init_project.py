"""`dfusion init`: the files of a project without a clone, and what it leaves alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from dfusion_core.commands.init.writing import project_files, write_files
from dfusion_core.params import load_everything

ROOT = Path(__file__).parents[2]
WEIGHTS, DIGESTS = "dfusion_core/microworld/weights", "results/weights.json"


@pytest.fixture
def home(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which git knows who commits, whatever the machine's settings are."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(workspace / "gitconfig"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workspace.parent))
    (workspace / "gitconfig").write_text("[user]\n\tname = t\n\temail = t@localhost\n")
    return workspace


def init(folder: str) -> Result:
    from dfusion_core.commands.cli import app

    return CliRunner().invoke(app, ["init", folder])


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_pipeline_is_that_of_the_repository_but_for_where_code_and_weights_are() -> None:
    ours = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    theirs = yaml.safe_load(project_files()["dvc.yaml"].replace(DIGESTS, WEIGHTS))
    code, installed = ours["stages"].pop("code"), theirs["stages"].pop("code")
    assert installed == {"cmd": code["cmd"], "always_changed": True, "outs": [*code["outs"], WEIGHTS]}
    assert theirs == ours


def test_every_dependency_is_there_or_is_made(home: Path) -> None:
    write_files(home)
    stages = yaml.safe_load((home / "dvc.yaml").read_text())["stages"]
    deps = {dep for one in stages.values() for dep in one.get("do", one).get("deps", ())}
    plain = {dep for dep in deps if not dep.startswith(("runs/", "results/"))}
    assert plain == {"labels", "${prompts.file}"}
    assert (home / load_everything(home / "params.yaml").prompts.file).is_file() and (home / "labels").is_dir()


def test_a_project_is_committed_and_clean(home: Path) -> None:
    done = init("new")
    assert done.exit_code == 0, done.output
    assert git(home / "new", "status", "--short") == ""
    assert set(git(home / "new", "ls-files").split()) == {*project_files(), ".dvc/config", ".dvc/.gitignore"}
    assert "analytics = false" in (home / "new/.dvc/config").read_text()
    again = init("new")
    assert again.exit_code == 0 and git(home / "new", "log", "--oneline").count("\n") == 1


def test_what_is_there_is_kept(home: Path) -> None:
    mine = home / "mine"
    (mine / "prompts").mkdir(parents=True)
    git(mine, "init", "-q")
    for name, text in {"params.yaml": "algo: ddpo\n", "prompts/micro_relation.yaml": "train: []\n"}.items():
        (mine / name).write_text(text)
    (mine / ".gitignore").write_text("/secret/\n/runs/")
    done = init("mine")
    assert done.exit_code == 0, done.output
    assert (mine / "params.yaml").read_text() == "algo: ddpo\n"
    assert (mine / "prompts/micro_relation.yaml").read_text() == "train: []\n"
    lines = (mine / ".gitignore").read_text().splitlines()
    assert lines[:2] == ["/secret/", "/runs/"] and lines.count("/runs/") == 1 and "/results/" in lines
    assert "params.yaml" in next(line for line in done.output.splitlines() if "kept" in line)
    assert git(mine, "status", "--short", "params.yaml").startswith("??")  # a repository of theirs: they commit


def test_another_pipeline_is_in_the_way(home: Path) -> None:
    (home / "mine").mkdir()
    (home / "mine/dvc.yaml").write_text("stages: {}\n")
    done = init("mine")
    assert done.exit_code == 1 and "mine/dvc.yaml" in done.output and "mv dvc.yaml" in done.output
    assert [path.name for path in (home / "mine").iterdir()] == ["dvc.yaml"]
    (home / "mine/dvc.yaml").rename(home / "mine/dvc.yaml.old")
    assert init("mine").exit_code == 0


def test_not_inside_another_repository(home: Path) -> None:
    git(home, "init", "-q")
    done = init("below/new")
    assert done.exit_code == 1 and str(home) in done.output and "outside" in done.output
    assert not (home / "below").exists()


def test_git_that_knows_no_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    done = init("new")
    assert done.exit_code == 0 and "git config user.name" in done.output
    command = done.output.partition("git commit -m ")[2].splitlines()[0].strip("'")
    git(home / "new", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", command)
    assert git(home / "new", "status", "--short") == ""


def test_profiles_name_the_projects_own_prompts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dfusion_core.commands.cli import app

    write_files(home / "new")
    monkeypatch.chdir(home / "new")
    for arguments in (["sd15"], ["sd15", "--prompts", "relation"], ["micro"]):  # none replaces a file of the user's own
        done = CliRunner().invoke(app, ["profile", *arguments])
        assert done.exit_code == 0, done.output
        file = load_everything(home / "new/params.yaml").prompts.file
        assert file.startswith("prompts/") and Path(file).is_file()
        assert "dfusion_core/" not in done.output
