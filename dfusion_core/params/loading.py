"""params.yaml, read once at the door of a stage: all mistakes reported at once, asked sections handed out."""

import json
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..errors import MOST_LISTED, ParamsError, did_you_mean, listed, short
from . import sections as s
from .strict_yaml import read_yaml

NEVER_IN_FINGERPRINT = ("launcher", "rounds")  # how stages are started, and which other rounds exist


class Params:
    """The sections that a stage asked for. Any other is an AttributeError: dvc.yaml must list it too."""

    algo: s.Algo
    pairs: s.Pairs
    seed: int
    rounds: dict[str, s.Round]
    model: s.Model
    lora: s.Lora
    prompts: s.Prompts
    sample: s.Sample
    reward: s.Reward
    extract: s.Extract
    fuse: s.Fuse
    pairing: s.Pairing
    adopt: s.Adopt
    train: s.Train
    evaluate: s.Evaluate
    launcher: s.Launcher

    def __init__(self, **sections: Any) -> None:
        self.__dict__.update(sections)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"params: section '{name}' was not asked for. "
            "Add it to load_params(...) in the stage and to `params:` in dvc.yaml."
        )

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"params are frozen; '{name}' cannot be set")

    def as_dict(self) -> dict[str, Any]:
        """The asked sections as plain JSON values."""
        return {name: _plain(value) for name, value in sorted(vars(self).items())}

    def for_fingerprint(self) -> dict[str, Any]:
        """`as_dict()` without what cannot change a result: the launchers and the list of rounds."""
        return {name: value for name, value in self.as_dict().items() if name not in NEVER_IN_FINGERPRINT}


class Explained(NamedTuple):
    """One parameter for people: its dotted key, default, description, and the paper's value or 'ours'."""

    key: str
    default: Any
    description: str
    paper: str


def load_params(*sections: str, path: str | Path = "params.yaml") -> Params:
    """The asked top-level keys of params.yaml, after the whole file was checked.

    Raises ParamsError listing every mistake with key path, value and, where one is close, a suggestion.
    """
    everything = load_everything(path)
    unknown = [name for name in sections if name not in s.Everything.model_fields]
    if unknown:
        raise ParamsError(
            f"params: there is no section '{unknown[0]}'.",
            did_you_mean(unknown[0], s.Everything.model_fields),
        )
    return Params(**{name: getattr(everything, name) for name in sections})


def load_everything(path: str | Path = "params.yaml") -> s.Everything:
    """All of params.yaml. Raises ParamsError as `load_params` does."""
    path = Path(path)
    data = _read(path)
    try:
        # Through JSON, because strict validation of JSON takes a list for a tuple, but never "1" for 1.
        everything = s.Everything.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        details = _without_echoes(error.errors(include_url=False))
        lines = [_line(detail) for detail in details[:MOST_LISTED]]  # each looks for a similar key, which takes time
        raise _invalid(path, lines, len(details)) from None
    problems = _across_sections(everything)
    if problems:
        raise _invalid(path, problems)
    if everything.adopt.threshold > 1:
        warnings.warn(
            f"{path.name}: adopt.threshold is {everything.adopt.threshold}; the paper's range is 0 to 1.",
            stacklevel=2,
        )
    return everything


def explain() -> list[Explained]:
    """Every parameter with its default, its description, and the paper's value or 'ours'."""
    rows: list[Explained] = []
    for name, field in s.Everything.model_fields.items():
        default = field.default
        if isinstance(default, BaseModel):
            rows += [_explained(f"{name}.{key}", inner) for key, inner in type(default).model_fields.items()]
        else:
            rows.append(_explained(name, field))
    return rows


def resolved(path: str | Path = "params.yaml") -> list[tuple[Explained, Any]]:
    """Every parameter with its value in the file at `path`. Raises ParamsError as `load_params` does."""
    everything = load_everything(path)
    rows: list[tuple[Explained, Any]] = []
    for row in explain():
        value: Any = everything
        for part in row.key.split("."):
            value = getattr(value, part)
        rows.append((row, _plain(value)))
    return rows


def _explained(key: str, field: Any) -> Explained:
    default = _plain(field.default)
    from_paper = (field.json_schema_extra or {}).get("paper", False)
    return Explained(key, default, field.description or "", json.dumps(default) if from_paper else "ours")


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        data = read_yaml(path)
    except FileNotFoundError:
        raise ParamsError(
            f"{path.name}: there is no such file in {path.absolute().parent}.",
            "Run the command in the folder that holds params.yaml and dvc.yaml.",
        ) from None
    except (OSError, ValueError) as error:
        raise ParamsError(
            f"{path.name}: {error}.", "Correct that line and run the same command again."
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ParamsError(
            f"{path.name}: must hold `key: value` lines, not a {type(data).__name__}.",
            "See docs/parameters.md.",
        )
    return {str(key): {} if value is None and _is_section(key) else value for key, value in data.items()}


def _is_section(key: Any) -> bool:
    """Whether a key without a value, such as `fuse:` with all lines commented out, means all defaults."""
    return key in s.Everything.model_fields and isinstance(s.Everything.model_fields[key].default, BaseModel)


def _invalid(path: Path, problems: list[str], count: int = 0) -> ParamsError:
    return ParamsError(
        f"{path.name} is not valid:\n{listed(problems, count)}", "\n'dfusion params' lists every key with its meaning."
    )


def _without_echoes(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """One error for each key: pydantic repeats one for every member of a union and for the list around it."""
    first: dict[tuple[int | str, ...], ErrorDetails] = {}
    for detail in details:
        first.setdefault(_key_path(detail["loc"]), detail)
    parents = {path[:-1] for path in first if path and isinstance(path[-1], int)}
    return [detail for path, detail in first.items() if path not in parents]


def _key_path(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The keys in a pydantic location, without the names of union members such as `literal['all','none']`."""
    member = re.compile(r"literal\[.*\]|int|constrained-int")
    return tuple(part for part in location if isinstance(part, int) or not member.fullmatch(part))


def _line(detail: ErrorDetails) -> str:
    location = _key_path(detail["loc"])
    key = short(".".join(str(part) for part in location))
    value = detail["input"]
    if detail["type"] == "extra_forbidden":
        return f"{key}: there is no such key (got {_short(value)}). {_suggest_key(location)}".rstrip()
    if detail["type"] == "missing":
        return f"{key}: is missing."
    expected = str((detail.get("ctx") or {}).get("expected", ""))
    suggestion = did_you_mean(str(value), re.findall(r"'([^']+)'", expected))
    number = " or a whole number" if key == "extract.keep_kv" else ""
    return f"{key}: {detail['msg']}{number} (got {_short(value)}). {suggestion}".rstrip()


def _short(value: Any) -> str:
    return short(json.dumps(value), 60)


def _suggest_key(location: tuple[int | str, ...]) -> str:
    """The closest key of the same section, else the same key in the section where it belongs."""
    *parents, wrong = (str(part) for part in location)
    keys = [row.key for row in explain()]
    prefix = "".join(f"{part}." for part in parents)
    siblings = {key[len(prefix) :].split(".")[0] for key in keys if key.startswith(prefix)}
    close = did_you_mean(wrong, siblings)
    if close:
        return close.replace("'", f"'{prefix}", 1)
    elsewhere = [key for key in keys if key.split(".")[-1] == wrong]
    return f"Did you mean '{elsewhere[0]}'?" if elsewhere else ""


def _across_sections(p: s.Everything) -> list[str]:
    """Rules that no single section can see."""
    problems = []
    if p.fuse.first_t > p.sample.num_steps:
        problems.append(
            f"fuse.first_t: must be at most sample.num_steps = {p.sample.num_steps} "
            f"(got {p.fuse.first_t})."
        )
    if p.fuse.last_t > p.fuse.first_t:
        problems.append(
            f"fuse.last_t: must be at most fuse.first_t = {p.fuse.first_t} (got {p.fuse.last_t})."
        )
    first = p.train.first_t
    if first is not None and not p.train.last_t <= first <= p.sample.num_steps:
        problems.append(
            f"train.first_t: must be from train.last_t = {p.train.last_t} to sample.num_steps = "
            f"{p.sample.num_steps} (got {first})."
        )
    if p.train.last_t > p.fuse.first_t:  # of a target nothing would be left to train on
        problems.append(
            f"train.last_t: must be at most fuse.first_t = {p.fuse.first_t} (got {p.train.last_t})."
        )
    if len(set(p.fuse.layers)) != len(p.fuse.layers):
        problems.append(f"fuse.layers: names a layer twice (got {json.dumps(p.fuse.layers)}).")
    if not all(0 <= beta < 1 for beta in p.train.betas):
        problems.append(
            f"train.betas: both must be at least 0 and below 1 (got {json.dumps(p.train.betas)})."
        )
    if isinstance(p.extract.keep_kv, int) and p.extract.keep_kv < 0:
        problems.append(f"extract.keep_kv: must be all, none or at least 0 (got {p.extract.keep_kv}).")
    if p.pairing.mode == "top_quarter_twice" and p.sample.images_per_prompt % 4:
        problems.append(
            "sample.images_per_prompt: must be a multiple of 4 for pairing.mode: top_quarter_twice "
            f"(got {p.sample.images_per_prompt})."
        )
    return problems + _rounds(p.rounds)


def _rounds(rounds: dict[str, s.Round]) -> list[str]:
    """Each round is called r00, r01, ... and follows `init` or a round with a smaller number."""
    problems = []
    for name, this in rounds.items():
        if not re.fullmatch(r"r[0-9]{2,6}", name):
            problems.append(f"rounds.{short(name)}: a round is called r00, r01, ... .")
        elif this.prev != "init" and this.prev not in rounds:
            problems.append(
                f"rounds.{name}.prev: there is no round '{short(this.prev)}'. "
                f"{did_you_mean(this.prev, rounds)}".rstrip()
            )
        elif this.prev != "init" and int(this.prev[1:]) >= int(name[1:]):
            problems.append(f"rounds.{name}.prev: must be init or an earlier round (got '{this.prev}').")
    return problems
