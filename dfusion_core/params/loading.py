"""Reading params.yaml at the start of a stage: all mistakes are reported together, the requested sections returned."""

import json
import warnings
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ..errors import MOST_LISTED, ParamsError, did_you_mean, listed, one_line
from . import sections as s
from .explaining import Explained, explain, plain
from .mistakes import line, without_echoes
from .rules import across_sections
from .selection import Params
from .strict_yaml import read_yaml


def load_params(*sections: str, path: str | Path = "params.yaml") -> Params:
    """The requested top-level keys of params.yaml, after a check of the whole file.

    Raises ParamsError listing every mistake with key path, value and a suggestion if a name is close.
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
        # Through JSON, because strict validation of JSON accepts a list for a tuple, but not "1" for 1.
        everything = s.Everything.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        details = without_echoes(error.errors(include_url=False))
        lines = [line(detail) for detail in details[:MOST_LISTED]]  # each searches a similar key, which takes time
        raise _invalid(path, lines, len(details)) from None
    problems = across_sections(everything)
    if problems:
        raise _invalid(path, problems)
    if everything.adopt.threshold > 1:
        warnings.warn(
            f"{path.name}: adopt.threshold is {everything.adopt.threshold}; the paper's range is 0 to 1.",
            stacklevel=2,
        )
    return everything


def resolved(path: str | Path = "params.yaml") -> list[tuple[Explained, Any]]:
    """Every parameter with its value in the file at `path`. Raises ParamsError as `load_params` does."""
    everything = load_everything(path)
    rows: list[tuple[Explained, Any]] = []
    for row in explain():
        value: Any = everything
        for part in row.key.split("."):
            value = getattr(value, part)
        rows.append((row, plain(value)))
    return rows


def _read(path: Path) -> dict[str, Any]:
    try:
        data = read_yaml(path)
    except FileNotFoundError:
        raise ParamsError(
            f"{path.name}: there is no such file in {path.absolute().parent}.",
            "Run the command in the folder that holds params.yaml and dvc.yaml.",
        ) from None
    except OSError as error:
        raise ParamsError(
            f"{path.name}: cannot be read: {one_line(error)}.",
            "Put a parameter file there: 'dfusion profile' lists ready ones.",
        ) from error
    except ValueError as error:
        raise ParamsError(f"{path.name}: {error}.", "Correct that line and run the same command again.") from error
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
