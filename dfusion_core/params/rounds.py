"""The order of rounds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ..errors import ParamsError, did_you_mean, short

if TYPE_CHECKING:
    from .selection import Params

SHOWN = 8  # largest number of rounds in a message
INIT = "init"  # the "round" of the base model


def previous(params: Params, round: str) -> str:
    """The round whose adapter ROUND starts from. Raises ParamsError for a round that is not in params.yaml."""
    if round not in params.rounds:
        raise ParamsError(
            f"rounds: params.yaml has no round '{short(round)}', only {listed_names(params.rounds)}.",
            _what_instead(round, params.rounds),
        )
    return params.rounds[round].prev


def listed_names(rounds: Iterable[str]) -> str:
    """The rounds for a message; of many the first and the last."""
    names = list(rounds)
    return ", ".join(names if len(names) <= SHOWN else [*names[: SHOWN - 1], f"... {names[-1]}"])


def _what_instead(round: str, rounds: Mapping[str, object]) -> str:
    """A hint: to add the round if it follows the others, else to correct the name."""
    last = max(rounds, key=lambda name: (len(name), name))
    if re.fullmatch(r"r[0-9]{2,6}", round) and int(round[1:]) > int(last[1:]):
        return f"Add it with 'dvc exp run -S +rounds.{round}.prev={last}'."
    return did_you_mean(round, rounds) or "Name one of these."


def lineage(round: str, previous: Mapping[str, str]) -> list[str]:
    """The rounds from the base model to this one, included; none for the base model.

    previous: the round from which each one starts; a missing one counts as the first.
    """
    found = [] if round == INIT else [round]
    while found and (before := previous.get(found[0], INIT)) != INIT:
        found.insert(0, before)
    return found


def in_order(params: Params) -> list[str]:
    """The rounds from the first to the last, each after the one from which it starts."""
    ordered = [INIT]
    while len(ordered) <= len(params.rounds):
        ordered += [name for name, one in params.rounds.items() if one.prev in ordered and name not in ordered]
    return ordered[1:]
