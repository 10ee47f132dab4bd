"""The training set: pairs of trajectories, winner and loser, of the same prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..diffusion.finite import check_finite
from ..errors import NotFinite

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from ..store import StageData

    Advantage = Callable[[pd.Series, pd.Series], NDArray[np.float32]]  # (prompt, reward) -> normalised reward


@dataclass(frozen=True)
class Pairs:
    """P pairs of trajectories.

    winner, loser: (P, T + 1, c, h, w). prompt_row: (P,), rows of ``prompts``. first_index: (P,), the first step index
    at which winner and loser differ: an adopted target shares the steps before fusion with its base, where the margin
    of Eq. 6 and its gradient are exactly zero. log_prob: (P, T), the losers' log-probs from sampling, to check that
    they are reproduced; NaN if none is stored. advantage: (2, P), normalised rewards of winner and loser; zero
    if the loss does not use them.
    """

    winner: torch.Tensor
    loser: torch.Tensor
    prompts: list[str]
    prompt_row: torch.Tensor
    first_index: torch.Tensor
    log_prob: torch.Tensor
    advantage: torch.Tensor

    def __len__(self) -> int:
        return len(self.winner)

    @property
    def num_steps(self) -> int:
        """T."""
        return self.winner.shape[1] - 1


def load_pairs(
    table: pd.DataFrame, made: Mapping[str, StageData], skip_shared: bool = True, advantage: Advantage | None = None
) -> Pairs:
    """The pairs of the table ``training`` of ``adopt``, with their trajectories.

    made: the outputs of ``sample`` and ``fuse`` by name. skip_shared: leave out the first steps of a pair in which
    both images have the same latents. advantage: normalises rewards. Raises NotFinite.
    """
    winner, loser = (_trajectories(table, side, made) for side in ("winner", "loser"))
    prompts = list(dict.fromkeys(table.prompt))
    normalised = torch.zeros(2, len(table))
    if advantage is not None:
        for row, side in enumerate(("winner", "loser")):
            normalised[row] = torch.from_numpy(advantage(table.prompt, table[f"{side}_reward"]))
    first = shared_steps(winner, loser) if skip_shared else torch.zeros(len(table), dtype=torch.long)
    return Pairs(
        winner=winner,
        loser=loser,
        prompts=prompts,
        prompt_row=torch.tensor([prompts.index(prompt) for prompt in table.prompt]),
        first_index=first,
        log_prob=_log_prob(table, made),
        advantage=normalised,
    )


def shared_steps(winner: torch.Tensor, loser: torch.Tensor) -> torch.Tensor:
    """Number of steps from x_T that two trajectories (P, T + 1, c, h, w) share, bit for bit; (P,)."""
    same = (winner == loser).flatten(2).all(dim=2)
    return (same[:, :-1] & same[:, 1:]).long().cumprod(dim=1).sum(dim=1)


def _trajectories(table: pd.DataFrame, side: str, made: Mapping[str, StageData]) -> torch.Tensor:
    """x (P, T + 1, c, h, w) of the winners or the losers, from the stages that made them."""
    parts = {}
    for stage, rows in table.groupby(f"{side}_stage")[f"{side}_row"]:
        parts[stage] = (torch.tensor(rows.index.to_numpy()), made[str(stage)].tensor("x", rows))
    first = next(iter(parts.values()))[1]
    x = first.new_empty(len(table), *first.shape[1:])
    for places, values in parts.values():
        x[places] = values
    return x


def _log_prob(table: pd.DataFrame, made: Mapping[str, StageData]) -> torch.Tensor:
    """The losers' log-probs from sampling (P, T); NaN for losers made by ``fuse``, which stores none."""
    sampled = made["sample"]
    stored = table[table.loser_stage == "sample"]
    log_prob = torch.full((len(table), sampled.array("log_prob").shape[1]), float("nan"))
    values = sampled.tensor("log_prob", stored.loser_row)
    try:
        check_finite(values, "the stored log_prob of the loser")
    except NotFinite as error:
        raise NotFinite(error.what, int(stored.index[error.row])) from error
    log_prob[torch.tensor(stored.index.to_numpy())] = values
    return log_prob
