"""`dfusion profile`: complete parameter files for supported models."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from ..runtime.entry import guarded

FOLDER = Path(__file__).parents[1] / "params" / "profiles"
PARAMS = Path("params.yaml")
PACKAGED = "dfusion_core/prompts"
TEMPLATES = ("behaviour", "attribute", "relation")  # of the paper: Tables 4, 5 and 6

PROFILES = {  # in the order in which they are listed
    "micro": "the built-in micro-world: two rounds in minutes on two CPU cores",
    "micro-flow": "the micro-world with the built-in flow transformer",
    "sd15": "Stable Diffusion 1.5 at the paper's size, 24 GB",
    "sd21": "the paper's experiment: Stable Diffusion 2.1-base, 40 rounds of 640 images, 40 GB or more",
    "sd21-24gb": "the same on a 24 GB card, as in the paper",
    "sdxl": "Stable Diffusion XL at 1024 pixels, 48 GB or more",
    "sd35-medium": "Stable Diffusion 3.5 medium at 1024 pixels, 48 GB or more; never run",
    "flux": "FLUX.1-dev at 1024 pixels, 80 GB; never run",
}


# Experiments with all parameters in which they differ, because `-S` edits params.yaml: (name, algo, pairs, about)
METHODS = (
    ("ddpo", "ddpo", "dfusion", "D-Fusion with DDPO (Eq. 8) instead of DPO"),
    ("dpok", "dpok", "dfusion", "D-Fusion with DPOK (Eq. 9)"),
    ("naive", "dpo", "naive", "the paper's baseline: DPO on the references themselves"),
    ("naive-ddpo", "ddpo", "naive", "DDPO alone"),
    ("naive-dpok", "dpok", "naive", "DPOK alone"),
    ("inversion", "dpo", "inversion", "the paper's ablation: trajectories by DDIM inversion"),
)


class Chosen(NamedTuple):
    """A profile's text with the chosen model and prompts."""

    text: str
    model: str
    prompts: str


@guarded
def profile(
    name: Annotated[str, typer.Argument(help="One of those that 'dfusion profile' lists.")] = "",
    model: Annotated[str, typer.Option(help="model.id: a name on the Hub, a folder, or a .safetensors file.")] = "",
    prompts: Annotated[
        str, typer.Option(help="The paper's prompts (behaviour, attribute or relation), or a prompt file.")
    ] = "",
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace a params.yaml that was changed by hand; it is kept as params.yaml.bak."),
    ] = False,
) -> None:
    """Write a params.yaml, and print the next commands. Without NAME: list the profiles."""
    if not name:
        for known, about in PROFILES.items():
            print(f"{known:<12} {about}")
        return
    chosen = fill(name, model, prompts)
    for line in write(chosen, force):
        print(line)
    print(f"params.yaml: the profile {name}; model {chosen.model}, prompts {chosen.prompts}.")
    print(next_commands(name, chosen))


def fill(name: str, model: str = "", prompts: str = "") -> Chosen:
    """The profile with model.id and prompts.file as chosen; an empty text keeps the profile's value.

    Raises typer.BadParameter for an unknown name, PromptsError for a prompt file that cannot be used.
    """
    from ..prompts.reading import load_prompts

    text = shipped(name)
    if model:
        text = set_key(text, "model", "id", model)
    file = prompt_file(name, prompts) if prompts else own_copy(get_key(text, "prompts", "file"))
    if file != get_key(text, "prompts", "file"):
        load_prompts(file)
        text = set_key(text, "prompts", "file", file)
    return Chosen(text, get_key(text, "model", "id"), get_key(text, "prompts", "file"))


def shipped(name: str) -> str:
    """A profile as it is in the package. Raises typer.BadParameter with the closest name."""
    from ..errors import did_you_mean

    if name not in PROFILES:
        hint = did_you_mean(name, PROFILES)
        raise typer.BadParameter(f"there is no profile '{name}', only {', '.join(PROFILES)}. {hint}".rstrip())
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def prompt_file(name: str, prompts: str) -> str:
    """The file of a template of the paper (for ``micro...`` that of the micro-world), else the file itself."""
    world = "micro" if name.startswith("micro") else "paper"
    return own_copy(f"{PACKAGED}/{world}_{prompts}.yaml") if prompts in TEMPLATES else prompts


def own_copy(file: str) -> str:
    """``prompts/NAME`` for a file of the package that this project has copied (`dfusion init`), else the file."""
    copied = Path("prompts", Path(file).name)
    packaged = file.startswith(f"{PACKAGED}/") and not Path(file).exists()
    return copied.as_posix() if packaged and copied.is_file() else file


def write(chosen: Chosen, force: bool) -> list[str]:
    """Write params.yaml atomically; returns what happened to the old one. Raises ParamsError if it would be lost."""
    from ..errors import ParamsError
    from ..store.atomic import write_bytes, write_text

    said = []
    if PARAMS.exists() and not is_shipped(PARAMS.read_bytes().decode(errors="replace")):
        if not force:
            raise ParamsError(
                f"profile: {PARAMS} was changed by hand: it differs from every profile.",
                "Keep it under another name, or run this command again with --force: it is then kept as "
                f"{backup_name()}.",
            )
        backup = backup_name()
        write_bytes(backup, PARAMS.read_bytes())
        said = [f"{backup}: what {PARAMS} was before."]
    write_text(PARAMS, chosen.text)
    return said


def backup_name() -> Path:
    """params.yaml.bak, with a number if that exists."""
    names = (Path(f"{PARAMS}.bak{number or ''}") for number in range(1000))
    return next(name for name in names if not name.exists())


def is_shipped(text: str) -> bool:
    """Whether a file was written by this command: a profile, with any model and prompts."""
    try:
        model, prompts = get_key(text, "model", "id"), get_key(text, "prompts", "file")
    except ValueError:
        return False
    return any(
        set_key(set_key(shipped(name), "model", "id", model), "prompts", "file", prompts) == text for name in PROFILES
    )


def set_key(text: str, section: str, key: str, value: str) -> str:
    """The text of a parameter file with another value of ``section.key``; its comment is kept."""
    line = _line(text, section, key)
    said = f"{line[1]}{as_yaml(value)}"
    return text[: line.start()] + (f"{said:<23}  {line[3]}" if line[3] else said) + text[line.end() :]


def as_yaml(value: str) -> str:
    """The text as DVC writes it: quoted only if YAML would read another value, as for `true` and `1e4`."""
    from ruamel.yaml import YAML

    file, writer = io.StringIO(), YAML()
    writer.width = len(value) + 100  # one line, however long
    writer.dump({"k": value}, file)
    said = file.getvalue().removeprefix("k:").strip()
    return said if _read_yaml(said) == value else json.dumps(value)


def _read_yaml(said: str) -> object:
    """A value as the reader of params.yaml reads it."""
    from ..params.strict_yaml import parse_yaml

    try:
        return parse_yaml(said)
    except ValueError:
        return None


def get_key(text: str, section: str, key: str) -> str:
    """The value of ``section.key``, a text. Raises ValueError if there is none."""
    return str(_read_yaml(_line(text, section, key)[2]))


def _line(text: str, section: str, key: str) -> re.Match[str]:
    """The line of ``section.key`` in three parts: up to the value, the value, the comment. Raises ValueError."""
    begin = re.search(rf"^{section}:\n", text, re.MULTILINE)
    value = r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\n]|'')*'|[^\s#\"'][^\n]*?"
    line = re.compile(rf"^(  {key}: )({value})(?:[ ]+(#.*))?$", re.MULTILINE)
    found = line.search(text, begin.end()) if begin else None
    if found is None:
        raise ValueError(f"there is no {section}.{key}")
    return found


def experiment(name: str, algo: str, pairs: str, prompts: str) -> str:
    """The command of an experiment, with its name and every parameter in which the experiments differ."""
    return f"dvc exp run -n {name} -S algo={algo} -S pairs={pairs} -S {shlex.quote(f'prompts.file={prompts}')}"


def next_commands(name: str, chosen: Chosen) -> str:
    """The commands of the experiment, in order, each with its purpose."""
    from ..params.sections import UNCHOSEN

    choose = [(f"dfusion profile {name} --model ID_OR_FOLDER", "choose the model: a copy on the Hub, a folder, a file")]
    paper = [
        ("git add dvc.lock params.yaml && git commit -m 'D-Fusion with DPO'", "what the experiments are compared with"),
        *((experiment(run, algo, pairs, chosen.prompts), about) for run, algo, pairs, about in METHODS),
        *(
            (experiment(other, "dpo", "dfusion", prompt_file(name, other)), f"the prompts of template {number}")
            for number, other in enumerate(TEMPLATES, 1)
            if prompt_file(name, other) != chosen.prompts
        ),
        ("dfusion compare main naive ddpo", "side by side: paired gains, what differs, the same seeds"),
    ]
    commands = [
        *(choose if chosen.model == UNCHOSEN else []),
        ("dfusion doctor", "check this machine and the model"),
        ("dfusion plan", "images, updates, hours, memory and disk, before anything runs"),
        ("dvc repro", "the run: D-Fusion with DPO (Eq. 6)"),
        ("dfusion report", "the whole run on one page"),
        *paper,
    ]
    return listed_commands(commands)


def listed_commands(commands: Sequence[tuple[str, str]]) -> str:
    """The next commands, each with its purpose."""
    width = max(len(command) for command, _ in commands)
    return "Next:\n" + "\n".join(f"  {command:<{width}}  # {about}" for command, about in commands)
