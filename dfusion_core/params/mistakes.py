"""pydantic's errors about params.yaml, as a line per key."""

import json
import re
from typing import Any

from pydantic_core import ErrorDetails

from ..errors import did_you_mean, short
from .explaining import explain


def without_echoes(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """One error per key: pydantic repeats errors for every member of a union and for the enclosing list."""
    first: dict[tuple[int | str, ...], ErrorDetails] = {}
    for detail in details:
        first.setdefault(_key_path(detail["loc"]), detail)
    parents = {path[:-1] for path in first if path and isinstance(path[-1], int)}
    return [detail for path, detail in first.items() if path not in parents]


def _key_path(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The keys in a pydantic location, without the names of union members such as `literal['all','none']`."""
    member = re.compile(r"literal\[.*\]|int|constrained-(int|str)")
    return tuple(part for part in location if isinstance(part, int) or not member.fullmatch(part))


def line(detail: ErrorDetails) -> str:
    """Key, reason, value, and a suggestion if a name is close."""
    location = _key_path(detail["loc"])
    key = short(".".join(str(part) for part in location))
    value = detail["input"]
    if detail["type"] == "extra_forbidden":
        return f"{key}: there is no such key (got {_short(value)}). {_suggest_key(location)}".rstrip()
    if detail["type"] == "missing":
        return f"{key}: is missing."
    expected = str((detail.get("ctx") or {}).get("expected", ""))
    suggestion = did_you_mean(str(value), re.findall(r"'([^']+)'", expected))
    more = " or a whole number" if key == "extract.keep_kv" else ""
    if key == "sample.maps" or key.startswith("fuse.layers"):
        more = ", or block_0, single_0, ... of a transformer"
    return f"{key}: {detail['msg']}{more} (got {_short(value)}). {suggestion}".rstrip()


def _short(value: Any) -> str:
    return short(json.dumps(value), 60)


def _suggest_key(location: tuple[int | str, ...]) -> str:
    """The closest key of the same section, else the same key in another section."""
    *parents, wrong = (str(part) for part in location)
    keys = [row.key for row in explain()]
    prefix = "".join(f"{part}." for part in parents)
    siblings = {key[len(prefix) :].split(".")[0] for key in keys if key.startswith(prefix)}
    close = did_you_mean(wrong, siblings)
    if close:
        return close.replace("'", f"'{prefix}", 1)
    elsewhere = [key for key in keys if key.split(".")[-1] == wrong]
    return f"Did you mean '{elsewhere[0]}'?" if elsewhere else ""
