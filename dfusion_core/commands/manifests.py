"""The parameters of a run's outputs, from their manifests and not from the present params.yaml."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..params import explain, resolved
from ..params.explaining import Explained
from ..params.rounds import INIT
from ..store.manifest import MANIFEST, read_manifest
from ..store.paths import ROUND_STAGES, output


class Parameter(NamedTuple):
    """A parameter of a run. ``values``: (value, outputs that were made with it), more than one if they differ;
    ``today``: the present value in params.yaml."""

    row: Explained
    values: list[tuple[Any, list[str]]]
    today: Any

    @property
    def value(self) -> str:
        """All values as text."""
        if len(self.values) == 1:
            return json.dumps(self.values[0][0])
        return "; ".join(f"{json.dumps(value)} ({_listed(where)})" for value, where in self.values)

    @property
    def differs_today(self) -> bool:
        """Whether params.yaml has another value than the run, or than a part of it."""
        return [self.today] != [value for value, _ in self.values]

    @property
    def differs_from_paper(self) -> bool:
        """Whether the paper has another value."""
        return self.row.paper != "ours" and [self.row.default] != [value for value, _ in self.values]


def declared(round: str) -> dict[str, Any]:
    """The parameters in the manifests of the round's stages and of init."""
    found: dict[str, Any] = {}
    for sections in _manifests([round]).values():
        found |= sections
    return found


def parameters(rounds: Iterable[str]) -> list[Parameter]:
    """Every parameter that a stage of these rounds declared, with its values. Raises ParamsError."""
    made, today = _manifests(rounds), {row.key: value for row, value in resolved()}
    found = []
    for row in explain():
        values: list[tuple[Any, list[str]]] = []
        for place, sections in made.items():
            for value in _value(sections, row.key.split(".")):
                _add(values, value, place)
        if values:
            found.append(Parameter(row, values, today[row.key]))
    return found


def _manifests(rounds: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The parameters in each manifest, by round and stage: ``r00/train``."""
    places = [(INIT, INIT), (INIT, "evaluate"), *((name, stage) for name in rounds for stage in ROUND_STAGES)]
    folders = {f"{name}/{stage}": output(stage, name) for name, stage in places}
    return {
        place: read_manifest(folder)["ingredients"]["params"]
        for place, folder in folders.items()
        if (folder / MANIFEST).is_file()
    }


def _value(sections: Any, path: list[str]) -> list[Any]:
    """The value at a path of keys; none if the stage did not declare it."""
    for key in path:
        if not isinstance(sections, dict) or key not in sections:
            return []
        sections = sections[key]
    return [sections]


def _add(values: list[tuple[Any, list[str]]], value: Any, place: str) -> None:
    for known, places in values:
        if known == value:
            places.append(place)
            return
    values.append((value, [place]))


def _listed(places: list[str], limit: int = 3) -> str:
    more = f" and {len(places) - limit} more" if len(places) > limit else ""
    return ", ".join(places[:limit]) + more
