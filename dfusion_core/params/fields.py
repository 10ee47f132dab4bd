"""Field constructors and the base class of the sections of params.yaml."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

LAST_SEED = 2**63 - 1  # the largest int64, for tables and random generators
MANY = 1_000_000  # limit of counts: images, prompts, pairs
LARGE = 1e6  # limit of factors


def paper(default: Any, description: str, **limits: Any) -> Any:
    """A field whose default is printed in the paper."""
    return Field(default, description=description, json_schema_extra={"paper": True}, **limits)


def ours(default: Any, description: str, **limits: Any) -> Any:
    """A field for which the paper gives no value."""
    return Field(default, description=description, json_schema_extra={"paper": False}, **limits)


class Section(BaseModel):
    """Base of all sections: frozen, strict about types, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())
