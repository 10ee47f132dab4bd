"""Which parameters a cell of a study was run with, so that results of others are never taken for it."""

from __future__ import annotations

from pathlib import Path

from ...errors import PromptsError
from ...params.loading import load_everything
from ...prompts.texts import texts_of
from ...store.agreement import ROUNDING
from ...store.provenance import flat, hash_of


def digest(params: Path) -> str:
    """Of the parameters in a file, without what changes no result, and of the prompts that they name.

    Raises ParamsError.
    """
    everything = load_everything(params)
    values = flat(everything.model_dump(mode="json", exclude={"launcher", "tracking"}))
    try:
        prompts = texts_of(everything.prompts)
    except PromptsError:  # its stages will say so
        prompts = {}
    kept = {key: value for key, value in values.items() if key not in ROUNDING}
    return hash_of({"params": kept, "prompts": prompts})[:16]
