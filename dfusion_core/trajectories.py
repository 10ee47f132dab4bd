"""The training set: pairs of whole trajectories, winner and loser, of one prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from .store import StageData


def tensor(data: StageData, name: str, which: Iterable[int]) -> torch.Tensor:
    """These rows of a stored array (len(which), ...)."""
    return torch.from_numpy(data.rows(name, which))


@dataclass(frozen=True)
class Pairs:
    """P pairs. ``winner`` and ``loser`` are (P, T + 1, c, h, w); ``prompt_row`` (P,) points into ``prompts``.

    ``first_index`` (P,) is the first step index at which winner and loser differ: an adopted target shares the
    steps before fusion with its base, where the margin of Eq. 6 and its gradient are exactly zero.
    ``log_prob`` (P, T) are the loser's log-probs seen while sampling, kept as a check only. ``advantage`` (2, P) are
    the normalised rewards of winner and loser, zero where the loss does not ask for them.
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
    sampled: StageData, fused: StageData, adopted: StageData, shared_steps: int,
    advantage: Callable[[pd.Series, pd.Series], NDArray[np.float32]] | None = None,
) -> Pairs:
    """The pairs that ``adopt`` chose, with their trajectories from ``sample`` and ``fuse``.

    ``shared_steps`` is how many steps an adopted target shares with its base and does not train on. ``advantage`` turns
    (prompt, reward) columns into normalised rewards.
    """
    table: pd.DataFrame = adopted.table("training")
    winner = tensor(sampled, "x", table.reference_image)
    taken = table.index[table.adopted].tolist()
    if taken:
        winner[taken] = tensor(fused, "x", table.pair[table.adopted])
    prompts = list(dict.fromkeys(table.prompt))
    normalised = torch.zeros(2, len(table))
    if advantage is not None:
        for row, rewards in enumerate((table.winner_reward, table.base_reward)):
            normalised[row] = torch.from_numpy(advantage(table.prompt, rewards))
    return Pairs(
        winner=winner, loser=tensor(sampled, "x", table.base_image), prompts=prompts,
        prompt_row=torch.tensor([prompts.index(prompt) for prompt in table.prompt]),
        first_index=torch.tensor([shared_steps if one else 0 for one in table.adopted]),
        log_prob=tensor(sampled, "log_prob", table.base_image), advantage=normalised)
