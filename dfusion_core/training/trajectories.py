"""The training set: pairs of whole trajectories, winner and loser, of one prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..diffusion.finite import check_finite
from ..pairing.plan import pair_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from ..store import StageData


@dataclass(frozen=True)
class Pairs:
    """P pairs. ``winner`` and ``loser`` are (P, T + 1, c, h, w); ``prompt_row`` (P,) points into ``prompts``.

    ``first_index`` (P,) is the first step index at which winner and loser differ: an adopted target shares the
    steps before fusion with its base, where the margin of Eq. 6 and its gradient are exactly zero.
    ``log_prob`` (P, T) are the loser's log-probs seen while sampling, kept as a check only; NaN where the loser is a
    twin, whose are not stored. ``advantage`` (2, P) are the normalised rewards of winner and loser, zero where the loss
    does not ask for them. ``names`` say for messages which pair is which.
    """

    winner: torch.Tensor
    loser: torch.Tensor
    prompts: list[str]
    prompt_row: torch.Tensor
    first_index: torch.Tensor
    log_prob: torch.Tensor
    advantage: torch.Tensor
    names: list[str]

    def __len__(self) -> int:
        return len(self.winner)

    @property
    def num_steps(self) -> int:
        """T."""
        return self.winner.shape[1] - 1


def load_pairs(
    sampled: StageData, fused: StageData, adopted: StageData, skip_shared: bool = True,
    advantage: Callable[[pd.Series, pd.Series], NDArray[np.float32]] | None = None,
) -> Pairs:
    """The pairs that ``adopt`` chose, with their trajectories from ``sample`` and ``fuse``.

    ``skip_shared`` leaves out the first steps of a pair as long as both images have the very same latents.
    ``advantage`` turns (prompt, reward) columns into normalised rewards.
    """
    table: pd.DataFrame = adopted.table("training")
    winner, loser, log_prob = (_twins if "twin_wins" in table else _targets)(table, sampled, fused)
    prompts = list(dict.fromkeys(table.prompt))
    normalised = torch.zeros(2, len(table))
    if advantage is not None:
        losers = table.loser_reward if "loser_reward" in table else table.base_reward
        for row, rewards in enumerate((table.winner_reward, losers)):
            normalised[row] = torch.from_numpy(advantage(table.prompt, rewards))
    first = shared_steps(winner, loser) if skip_shared else torch.zeros(len(table), dtype=torch.long)
    return Pairs(
        winner=winner, loser=loser, prompts=prompts,
        prompt_row=torch.tensor([prompts.index(prompt) for prompt in table.prompt]),
        first_index=first, log_prob=log_prob, advantage=normalised, names=pair_names(table))


def shared_steps(winner: torch.Tensor, loser: torch.Tensor) -> torch.Tensor:
    """How many steps from x_T on two trajectories (P, T + 1, c, h, w) have in common, bit for bit; (P,)."""
    same = (winner == loser).flatten(2).all(dim=2)
    return (same[:, :-1] & same[:, 1:]).long().cumprod(dim=1).sum(dim=1)


Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # winner, loser, the loser's log-probs while sampling


def _targets(table: pd.DataFrame, sampled: StageData, fused: StageData) -> Found:
    """The target wins where it was adopted, else the reference; the base loses."""
    winner = sampled.tensor("x", table.reference_image)
    taken = table.index[table.adopted].tolist()
    if taken:
        winner[taken] = fused.tensor("x", table.pair[table.adopted])
    return winner, sampled.tensor("x", table.base_image), _log_prob(table, sampled, table.base_image)


def _twins(table: pd.DataFrame, sampled: StageData, fused: StageData) -> Found:
    """Of an image and its twin the better one wins. ``fuse`` keeps no log-probs: NaN where the twin loses."""
    image, twin = sampled.tensor("x", table.image), fused.tensor("x", table.pair)
    wins = torch.tensor(table.twin_wins.to_numpy())
    chosen = wins.view(-1, *[1] * (image.ndim - 1))
    log_prob = _log_prob(table, sampled, table.image)
    return (torch.where(chosen, twin, image), torch.where(chosen, image, twin),
            log_prob.masked_fill(~wins[:, None], float("nan")))


def _log_prob(table: pd.DataFrame, sampled: StageData, images: Iterable[int]) -> torch.Tensor:
    """Log-probs of sampled images (P, T). Raises BadNumber: further on a NaN means that none is stored."""
    found = sampled.tensor("log_prob", images)
    check_finite(found, "the stored log_prob", pair_names(table))
    return found
