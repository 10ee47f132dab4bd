"""`dfusion profile`: what the shipped parameter files say, and what writing one does to the file that is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dfusion_core.commands.profile import FOLDER, METHODS, PARAMS, PROFILES, fill, is_shipped, prompt_file
from dfusion_core.errors import ParamsError
from dfusion_core.params import explain, load_everything, resolved
from dfusion_core.params.sections import UNCHOSEN
from dfusion_core.params.strict_yaml import read_yaml

ROOT = Path(__file__).parents[2]
PAPER_SIZE = [name for name in PROFILES if not name.startswith("micro")]
# What a profile may have otherwise than the paper: the model, what only sets speed or memory, and what SDXL's
# topology and SD 2.1's thresholds ask for.
FREE = {"sample.batch_size", "train.micro_batch"}
OTHER_MODEL = {"extract.threshold"}
SDXL = {"sample.maps", "fuse.layers"}
FLOW = SDXL | {"sample.guidance_scale"}  # that of the model itself
TOPOLOGY = {"sdxl": SDXL, "sd35-medium": FLOW, "flux": FLOW}


def dfusion(*arguments: str) -> tuple[int, str]:
    from dfusion_core.commands.cli import app

    done = CliRunner().invoke(app, ["profile", *arguments], env={"COLUMNS": "200"})
    return done.exit_code, done.output


def chosen(name: str, folder: Path, model: str = "somebody/sd-2-1-base") -> Path:
    """The profile as a file, with a model where it has none."""
    file = folder / "chosen.yaml"
    file.write_text(fill(name, model if name.startswith("sd21") else "").text)
    return file


# --- the files ---


def test_the_files_are_those_that_are_listed() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(PROFILES)


def test_the_default_is_the_micro_profile() -> None:
    assert (ROOT / "params.yaml").read_text() == (FOLDER / "micro.yaml").read_text(), (
        "params.yaml changed: copy it to dfusion_core/params/profiles/micro.yaml"
    )


@pytest.mark.parametrize("name", PAPER_SIZE)
def test_values_are_the_papers(name: str, tmp_path: Path) -> None:
    allowed = FREE | (set() if name.startswith("sd21") else OTHER_MODEL) | TOPOLOGY.get(name, set())
    papers = {row.key for row in explain() if row.paper != "ours"}
    differ = {row.key for row, value in resolved(chosen(name, tmp_path)) if row.key in papers and value != row.default}
    assert differ <= allowed
    assert fill(name).text.count("{prev: ") == 40


@pytest.mark.parametrize("name", PROFILES)
def test_every_parameter_is_in_every_profile(name: str) -> None:
    """Else a new one would silently have its default there. Keys that are null by default may be left out."""
    text = read_yaml(FOLDER / f"{name}.yaml")
    for row in explain():
        section, _, key = row.key.rpartition(".")
        there = text[section] if section else text
        assert key in there or row.default is None, f"{name} lacks {row.key}"


@pytest.mark.parametrize("name", PAPER_SIZE)
def test_prompts_have_what_the_masks_ask_for(name: str, tmp_path: Path) -> None:
    from dfusion_core.extraction.masks import thresholds
    from dfusion_core.prompts.reading import load_prompts

    params = load_everything(chosen(name, tmp_path))
    prompts = load_prompts(params.prompts.file)
    assert (len(prompts.train), len(prompts.test)) == (40, 40)
    assert all(len(thresholds(prompt, params.extract)) == len(prompt.items) for prompt in prompts.train)


@pytest.mark.parametrize("name", ["sd21", "sd21-24gb"])
def test_a_model_that_left_the_hub_has_to_be_chosen(name: str) -> None:
    with pytest.raises(ParamsError, match="model.id: has to be chosen.*dfusion profile sd21 --model ID_OR_FOLDER"):
        load_everything(FOLDER / f"{name}.yaml")


# --- the command ---


def test_without_a_name_they_are_listed(workspace: Path) -> None:
    code, out = dfusion()
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == list(PROFILES)
    assert not PARAMS.exists()


@pytest.mark.parametrize("name", PROFILES)
def test_writes_it_and_says_what_comes_next(name: str, workspace: Path) -> None:
    code, out = dfusion(name)
    assert code == 0 and PARAMS.read_text() == (FOLDER / f"{name}.yaml").read_text()
    for command in ("dfusion doctor", "dfusion plan", "dvc repro"):
        assert f"\n  {command} " in out
    prompts = fill(name).prompts
    for run, algo, pairs, _ in METHODS:  # each names all that they differ in, as -S stays in params.yaml
        assert f"  dvc exp run -n {run} -S algo={algo} -S pairs={pairs} -S prompts.file={prompts} " in out
    assert ("--model ID_OR_FOLDER" in out) == (fill(name).model == UNCHOSEN)


@pytest.mark.parametrize("model", ["owner/name", "models/sd 2.1 'base'", "C:\\x", "true", "# no", 'a "b"', "ü/é"])
def test_model_and_prompts_are_filled_in(model: str, workspace: Path) -> None:
    code, _ = dfusion("sd21", "--model", model, "--prompts", "relation")
    params = load_everything()
    assert code == 0 and params.model.id == model
    assert params.prompts.file == "dfusion_core/prompts/paper_relation.yaml"
    without = [line for line in PARAMS.read_text().splitlines() if not line.startswith(("  id: ", "  file: "))]
    assert without == [line for line in fill("sd21").text.splitlines() if not line.startswith(("  id: ", "  file: "))]
    assert dfusion("micro")[0] == 0  # what the command wrote may be replaced, whatever the model


def test_the_micro_world_has_templates_of_its_own(workspace: Path) -> None:
    assert dfusion("micro", "--prompts", "attribute")[0] == 0
    assert (
        load_everything().prompts.file
        == prompt_file("micro", "attribute")
        == ("dfusion_core/prompts/micro_attribute.yaml")
    )


def test_a_file_changed_by_hand_is_not_lost(workspace: Path) -> None:
    by_hand = fill("micro").text.replace("seed: 0", "seed: 7", 1)
    PARAMS.write_text(by_hand)
    code, out = dfusion("sdxl")
    assert code == 1 and "--force" in out and PARAMS.read_text() == by_hand
    for number, kept in enumerate(("params.yaml.bak", "params.yaml.bak1")):
        PARAMS.write_text(by_hand + f"# {number}\n")
        assert dfusion("sdxl", "--force")[0] == 0
        assert Path(kept).read_text() == by_hand + f"# {number}\n"
        assert PARAMS.read_text() == fill("sdxl").text


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"model: 3\n", b"model:\n  id: [1]\n"])
def test_a_file_that_is_no_params_yaml_is_not_lost_either(data: bytes, workspace: Path) -> None:
    PARAMS.write_bytes(data)
    assert dfusion("micro")[0] == 1 and PARAMS.read_bytes() == data
    assert not is_shipped(data.decode(errors="replace"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [(("sd12",), 2, "Did you mean 'sd21'"), (("sd15", "--prompts", "none.yaml"), 1, "there is no file none.yaml")],
)
def test_bad_input_writes_nothing(arguments: tuple[str, ...], code: int, said: str, workspace: Path) -> None:
    found, out = dfusion(*arguments)
    assert found == code and said in out and not PARAMS.exists()


@pytest.mark.parametrize("command", ["profile", "plan"])
def test_help_loads_nothing_heavy(command: str) -> None:
    program = (
        "import sys; from dfusion_core.commands.cli import app\n"
        "try: app(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'open_clip', 'zarr'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, command, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert "Usage: " in done.stdout and done.stdout.endswith("[]\n")
