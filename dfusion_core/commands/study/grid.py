"""The file of a study: factors with levels, each level a set of parameters; every combination is a cell.

    common: {evaluate.images_per_prompt: 12}         # in every cell, on top of params.yaml
    factors:                                         # the first is the repetition
      seed: {"0": {seed: 0}, "1": {seed: 1}}
      method:
        naive: {algo: dpo, pairs: naive}
        dfusion: {algo: dpo, pairs: dfusion}
    baseline: naive                                  # the level of the last factor to compare with

Keys are those of params.yaml; "~rounds.r01" removes one and "+rounds.r02.prev" adds one, as in `dvc exp run -S`.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import DFusionError, ParamsError, did_you_mean, one_line, short
from ...params.loading import load_everything
from ...params.strict_yaml import read_yaml
from .identity import digest

KEYS = ("common", "factors", "baseline")
LEVEL = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")  # it becomes a part of an experiment's name
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # its first part
KEY = re.compile(r"(\+{1,2}|~)?\w[\w-]*(\.\w[\w-]*)*")
MOST_CELLS = 1_000


class StudyError(DFusionError):
    """The file of a study is missing or not valid, or the study has no results yet."""


@dataclass(frozen=True)
class Cell:
    """One experiment: its level of each factor, and the parameters that differ from params.yaml."""

    levels: dict[str, str]
    changes: dict[str, Any]
    digest: str = ""  # of all its parameters, those that it shares with the others as well

    @property
    def name(self) -> str:
        """Its levels, joined by hyphens."""
        return "-".join(self.levels.values())

    @property
    def group(self) -> str:
        """Its levels without the last, joined by hyphens: cells that differ only in the compared factor."""
        return "-".join([*self.levels.values()][:-1]) or "all"

    @property
    def overrides(self) -> list[str]:
        """The changes as arguments of `dvc exp run -S`."""
        return [
            key if key.startswith("~") else f"{key}={json.dumps(value, ensure_ascii=False)}"
            for key, value in self.changes.items()
        ]

    def params(self, original: dict[str, Any]) -> str:
        """The text of its params.yaml (JSON, which is YAML too), from that of the workspace. Raises ParamsError."""
        content = copy.deepcopy(original)
        for key, value in self.changes.items():
            _change(content, key, copy.deepcopy(value))
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Study:
    """A study's name (that of its file), its cells in the order they run, and the compared factor."""

    name: str
    cells: list[Cell]
    factors: list[str]
    baseline: str

    @property
    def compared(self) -> str:
        """The last factor: its levels are compared with one another, within each combination of the others."""
        return self.factors[-1]


def load_study(file: Path, params: Path = Path("params.yaml")) -> Study:
    """The study of the file, with every cell's parameters checked. Raises StudyError or ParamsError."""
    load_everything(params)  # params.yaml itself must be valid
    data = _read(file)
    factors: dict[str, dict[str, Any]] = data["factors"]
    cells = []
    for chosen in itertools.product(*(levels.items() for levels in factors.values())):
        levels = dict(zip(factors, (name for name, _ in chosen), strict=True))
        changes = dict(data["common"])
        for _, some in chosen:
            changes |= some
        cells.append(Cell(levels, changes))
    cells = _checked(file, cells, params)
    last = list(factors)[-1]
    baseline = str(data.get("baseline", next(iter(factors[last]))))
    if baseline not in factors[last]:
        raise StudyError(
            f"{file.name}: baseline: the factor '{last}' has no level '{short(baseline)}'.",
            did_you_mean(baseline, factors[last]),
        )
    return Study(file.stem, cells, list(factors), baseline)


def _read(file: Path) -> dict[str, Any]:
    """The file with every level's changes as a mapping. Raises StudyError."""
    if not NAME.fullmatch(file.stem):
        raise StudyError(f"{file}: the name of a study's file is that of its experiments: letters, digits, '_', '-'.")
    try:
        data = read_yaml(file)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        problem = "there is no such file" if missing else f"cannot be read: {one_line(error)}"
        raise StudyError(f"{file}: {problem}.", _other_studies(file)) from None
    except ValueError as error:
        raise StudyError(f"{file}: {error}.", "A study is described in docs/studies.md.") from None
    if not isinstance(data, dict) or not isinstance(data.get("factors"), dict) or not data["factors"]:
        raise StudyError(f"{file.name}: factors: a study needs at least one factor with its levels.")
    for key in data:
        if key not in KEYS:
            raise StudyError(f"{file.name}: {short(str(key))}: there is no such key.", did_you_mean(str(key), KEYS))
    data["common"] = _changes(f"{file.name}: common", data.get("common"))
    data["factors"] = {
        str(factor): _levels(f"{file.name}: factors.{short(str(factor))}", levels)
        for factor, levels in data["factors"].items()
    }
    cells = math.prod(map(len, data["factors"].values()))
    if cells > MOST_CELLS:
        raise StudyError(f"{file.name}: factors: {cells} combinations; a study has at most {MOST_CELLS}.")
    return data


def _other_studies(file: Path) -> str:
    known = {path.as_posix() for path in Path("studies").glob("*.yaml")}
    there = f"There are {', '.join(sorted(known))}." if known else ""
    return did_you_mean(file.as_posix(), known) or there or "A study is described in docs/studies.md."


def _levels(where: str, levels: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(levels, dict) or not levels:
        raise StudyError(f"{where}: must be levels with parameters, as 'naive: {{...}}'.")
    for level in levels:
        if not LEVEL.fullmatch(str(level)):
            raise StudyError(f"{where}: '{short(str(level))}' must be of a-z, 0-9 and single '_'.")
    if len({str(level) for level in levels}) < len(levels):  # 8 and 0x8 are one number
        raise StudyError(f"{where}: two levels have one name ({short(', '.join(map(str, levels)))}).")
    return {str(level): _changes(f"{where}.{level}", changes) for level, changes in levels.items()}


def _changes(where: str, changes: Any) -> dict[str, Any]:
    """The parameters of a level; none if it is empty."""
    if changes is not None and not (isinstance(changes, dict) and all(isinstance(key, str) for key in changes)):
        raise StudyError(f"{where}: must be parameters (got {short(repr(changes))}).")
    return changes or {}


def _checked(file: Path, cells: list[Cell], params: Path) -> list[Cell]:
    """The cells, with params.yaml and each one's changes validated as its stages will. Raises StudyError naming it.

    A repetition of the same parameters makes the same images: it would count as a training of its own.
    """
    original = read_yaml(params) or {}
    found: dict[str, Cell] = {}
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder, "params.yaml")
        for cell in cells:
            try:
                changed.write_text(cell.params(original), encoding="utf-8")
                one = replace(cell, digest=digest(changed))
            except ParamsError as error:
                raise StudyError(f"{file.name}: {cell.name}: {error}") from None
            if one.digest in found:
                raise StudyError(
                    f"{file.name}: {found[one.digest].name} and {one.name} have the same parameters: one experiment "
                    "would be counted twice.",
                    "Let each level change something, and no key be changed by two factors.",
                )
            found[one.digest] = one
    return list(found.values())


def _merged(old: Any, new: Any) -> Any:
    """A value in the place of another one; of sections the keys, as `dvc exp run -S` does it."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return old | {key: _merged(old.get(key), value) for key, value in new.items()}


def _change(content: dict[str, Any], key: str, value: Any) -> None:
    """One change in place: set an existing key, add with "+", remove with "~"."""
    if not KEY.fullmatch(key):
        raise ParamsError(f"{short(key)}: is no key of params.yaml.", "Write it as seed, model.id or ~rounds.r01.")
    *parents, last = key.lstrip("+~").split(".")
    for parent in parents:
        if key.startswith("+"):
            content.setdefault(parent, {})
        if not isinstance(content.get(parent), dict):
            raise ParamsError(f"{short(key)}: params.yaml has no '{short(parent)}'.", did_you_mean(parent, content))
        content = content[parent]
    if not key.startswith("+") and last not in content:
        raise ParamsError(f"{short(key)}: params.yaml has no such key.", did_you_mean(last, content))
    if key.startswith("~"):
        del content[last]
    else:
        content[last] = _merged(content.get(last), value)
