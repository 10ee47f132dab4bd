"""Descriptions of the parameters: key, default, meaning, and origin of the default."""

import json
from typing import Any, NamedTuple

from pydantic import BaseModel

from . import sections as s


class Explained(NamedTuple):
    """A parameter: its dotted key, default, description, and the paper's value or 'ours'."""

    key: str
    default: Any
    description: str
    paper: str


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


def _explained(key: str, field: Any) -> Explained:
    default = plain(field.default)
    from_paper = (field.json_schema_extra or {}).get("paper", False)
    return Explained(key, default, field.description or "", json.dumps(default) if from_paper else "ours")


def plain(value: Any) -> Any:
    """A value of a section as plain JSON."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value
