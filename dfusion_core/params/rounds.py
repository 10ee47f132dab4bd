"""Which round comes before which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ParamsError, did_you_mean

if TYPE_CHECKING:
    from . import Params

INIT = "init"  # the "round" of the untouched base model


def previous(params: Params, round: str) -> str:
    """The round whose adapter ROUND starts from. Raises ParamsError for a round that params.yaml lacks."""
    if round not in params.rounds:
        raise ParamsError(
            f"rounds: params.yaml has no round '{round}', only {', '.join(params.rounds)}.",
            did_you_mean(round, params.rounds) or f"Add it with 'dvc exp run -S +rounds.{round}.prev=LAST'.")
    return params.rounds[round].prev


def in_order(params: Params) -> list[str]:
    """The rounds from the first to the last, each behind the one it starts from."""
    ordered = [INIT]
    while len(ordered) <= len(params.rounds):
        ordered += [name for name, one in params.rounds.items() if one.prev in ordered and name not in ordered]
    return ordered[1:]
