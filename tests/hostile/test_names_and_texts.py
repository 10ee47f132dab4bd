"""Names that lead elsewhere, and texts that are more than text, in every place where a user or a file can put them."""

from __future__ import annotations

import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image
from steps import change, reseal, run
from typer.testing import CliRunner, Result

from dfusion_core.commands.cli import app
from dfusion_core.commands.report import write_report
from dfusion_core.errors import DFusionError, ParamsError, PromptsError, RewardError, StoreError, printable
from dfusion_core.params import load_params
from dfusion_core.prompts.reading import load_prompts
from dfusion_core.store import read_stage
from dfusion_core.store.paths import ROUND_STAGES
from dfusion_core.testing import PROMPTS

OUTSIDE = ("../r00", "../../etc", "/etc", "r00/../../x", ".", "..", "", "r00\0", "-rf", "r 00")
EVIL = "a [heart] <script>alert(1)</script><img src=x onerror=alert(1)> | `x` $y$ ![z](http://evil.example/z.png)"
SHOWN = EVIL.replace("[heart]", "heart").replace("![z]", "![[z]]").replace("[[", "[").replace("]]", "]")


def dfusion(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


# --- names ---


@pytest.mark.few(7)
@pytest.mark.parametrize("round", OUTSIDE)
@pytest.mark.parametrize("stage", ROUND_STAGES)
def test_a_round_outside(project: Path, stage: str, round: str) -> None:
    before = sorted(Path().rglob("*"))
    with pytest.raises(DFusionError):
        run(stage, round)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("round", OUTSIDE)
def test_commands_with_a_round_outside(project: Path, round: str) -> None:
    before = sorted(Path().rglob("*"))
    for command in (["export", "--out", "out"], ["study", "attention"], ["study", "gradients"]):
        if round or command[0] == "study":  # no name is the last round to `export`
            done = dfusion(*command, "--", round)
            assert done.exit_code in (1, 2) and not isinstance(done.exception, OSError | ValueError), done.output
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("path", ["../../etc", "/etc", "/", "r00/../..", "r00/sample/../../../x", "r00/sample/nothing"])
def test_inspect_shows_outputs_only(project: Path, path: str) -> None:
    done = dfusion("inspect", path)
    assert done.exit_code == 1 and done.stdout == "" and "error: " in done.stderr


@pytest.mark.parametrize("name", ["../x", "x/y", ".hidden", "-x", "a b", "x\n"])
def test_export_writes_no_file_of_such_a_name(project: Path, name: str) -> None:
    done = dfusion("export", "--out", "out", f"--name={name}")
    assert done.exit_code == 2 and not Path("out").exists()


@pytest.mark.parametrize("name", ["-x.yaml", "a b.yaml", "..yaml", ".yaml", "a;b.yaml"])
def test_a_study_of_such_a_name(project: Path, name: str) -> None:
    Path(name).write_text("factors: {m: {naive: {pairs: naive}}}\n")
    done = dfusion("study", "table", "--", name)
    assert done.exit_code == 1 and "the name of a study's file" in done.stderr


@pytest.mark.parametrize("folder", ["/", "..", "../../../..", "/proc"])
def test_a_folder_that_is_no_model_is_not_read_through(project: Path, folder: str) -> None:
    """Its content would be part of the fingerprint: a whole disk."""
    change(model={"id": folder})
    with pytest.raises(DFusionError, match="runs/init/train was made with model.id"):
        run("sample", "r00")
    shutil.rmtree("runs/init/train")
    with pytest.raises(DFusionError, match="is not in diffusers format"):
        run("init")
    change(reward={"model": f"local-dir:{folder}"})
    with pytest.raises(RewardError, match="there is no open_clip_config.json"):
        run("score", "r00")


@pytest.mark.parametrize("plugin", ["os", ":", "a b:c", "os:", "os:system()", "../x:Y", "a..b:C", "x" * 999 + ":Y"])
def test_a_plugin_that_is_none(project: Path, plugin: str) -> None:
    change(reward={"plugins": {plugin: 1.0}})
    with pytest.raises(RewardError, match="reward.plugins: "):
        run("score", "r00")


@pytest.mark.parametrize("file", ["/etc/passwd", "/dev/zero", "/dev/null", "/proc/self/mem", "/", "."])
def test_a_prompt_file_that_is_none(file: str) -> None:
    with pytest.raises(PromptsError, match="^prompts: "):
        load_prompts(file)


# --- files that are not what they seem ---


def test_a_manifest_that_lists_files_outside(project: Path) -> None:
    Path("runs/r00/secret.csv").write_text("a\n1\n")
    manifest = Path("runs/r00/adopt/manifest.json")
    reseal("adopt")
    content = json.loads(manifest.read_text())
    for name in ("../secret.csv", "/etc/passwd"):
        content["files"][name] = content["files"]["training.csv"]
    manifest.write_text(json.dumps(content))
    done = dfusion("inspect", "r00/adopt")
    assert done.exit_code == 1 and "secret" not in done.stdout
    with pytest.raises(StoreError):
        read_stage("adopt", "r00")


def test_a_folder_that_is_a_link_to_outside(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """DVC links single files into its cache; a link to a folder is none of DVC's, and nothing behind it is read."""
    outside = tmp_path_factory.mktemp("outside")
    shutil.move("runs/r00/train/adapter", outside / "adapter")
    os.symlink(outside / "adapter", "runs/r00/train/adapter")
    with pytest.raises(StoreError, match="adapter/pytorch_lora_weights.safetensors is missing"):
        read_stage("train", "r00")
    assert dfusion("verify", "runs/r00/train").exit_code == 1


# --- texts ---


@pytest.mark.parametrize(
    "text",
    [
        '"\\e[2J a [cat]"',
        '"a [cat]\\0"',
        '"a [cat]\\r\\nb"',
        '"a [cat]\\x9b31m"',
        '"a [cat] \\ud800"',
        "!!python/object/apply:os.system ['id']",
        "!!binary aGk=",
    ],
)
def test_no_control_character_or_tag_in_yaml(tmp_path: Path, text: str) -> None:
    (tmp_path / "prompts.yaml").write_text(f"train:\n- {text}\n")
    with pytest.raises(PromptsError, match=r"line 2: (the (control character|tag)|'.*' is no binary|\\ud83d)"):
        load_prompts(tmp_path / "prompts.yaml")
    (tmp_path / "params.yaml").write_text(f"algo: dpo\nlauncher: {text}\n")
    with pytest.raises(ParamsError, match=r"^params.yaml: line 2: "):
        load_params(path=tmp_path / "params.yaml")


def test_an_alias_bomb(tmp_path: Path) -> None:
    """Ten levels of ten: ten thousand million values in 300 bytes."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (tmp_path / "params.yaml").write_text("\n".join(lines))
    with pytest.raises(ParamsError, match="line 5: more than 100000 values, aliases written out"):
        load_params(path=tmp_path / "params.yaml")


def test_messages_leave_the_terminal_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = dfusion("inspect", "\x1b[2Jr00")
    assert done.exit_code == 1 and "\x1b" not in done.stderr and "\\x1b[2Jr00" in done.stderr
    assert printable("a\tb\nc\x07\x9b\u2028é") == "a\tb\nc\\x07\\x9b\u2028é"


class Seen(HTMLParser):
    """Tags with the names of their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {(tag, name) for name, _ in attrs}
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def know_signs(file: Path) -> None:
    """Give a vocabulary the signs of EVIL, in the place of others."""
    said = json.loads(file.read_text())
    vocabulary: dict[str, int] = said["model"]["vocab"]
    for old, new in zip("23456789?-,'", "<>=/()|`$[]:", strict=True):
        for end in ("", "</w>"):
            vocabulary[f"{new}{end}"] = vocabulary.pop(f"{old}{end}")
    said["model"]["vocab"] = vocabulary
    file.write_text(json.dumps(said))


@pytest.fixture
def evil(project: Path) -> Path:
    """The project with one round on a prompt that is a page of its own, in a test prompt too."""
    prompts = {
        "train": [EVIL.replace("![z]", "![[z]]"), "a blue and dotted [square]"],
        "test": [PROMPTS["test"][0], "some " + EVIL.replace("![z]", "![[z]]")],
    }
    Path("prompts.yaml").write_text(yaml.safe_dump(prompts, allow_unicode=True))
    for file in ("model/tokenizer/tokenizer.json", "clip/tokenizer.json"):
        know_signs(Path(file))
    change(rounds={"r00": {"prev": "init"}}, extract={"threshold": "relative"})
    shutil.rmtree("runs")
    shutil.rmtree("results")
    run("init")
    run("evaluate", "init")
    for stage in ROUND_STAGES:
        run(stage)
    run("summary")
    return project


@pytest.mark.slow
def test_a_prompt_is_text_in_everything_that_is_written(evil: Path) -> None:
    """Report, model card, picture: the prompt is to be read there, word by word, and does nothing."""
    assert read_stage("sample", "r00").table("images").prompt[0] == SHOWN
    write_report(Path("report.html"))
    page = Seen(Path("report.html").read_text())
    assert SHOWN in page.text
    assert not page.tags & {"script", "iframe", "object", "a", "link", "form"}
    assert not [name for _, name in page.attributes if name.startswith("on")]
    assert {name for tag, name in page.attributes if tag == "img"} == {"alt", "src"}
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)

    done = dfusion("export", "r00", "--out", "out", "--no-check")
    assert done.exit_code == 0, done.output
    card = Seen(MarkdownIt("commonmark").enable("table").render(Path("out/README.md").read_text()))
    assert SHOWN in card.text
    assert "script" not in card.tags and ("img", "onerror") not in card.attributes
    assert not any("evil.example" in address for address in card.addresses)
    picture = Image.open(sorted(Path("out/samples").glob("*.png"))[0])
    assert str(picture.text["parameters"]).startswith(f"{SHOWN} <lora:")  # type: ignore[attr-defined]
