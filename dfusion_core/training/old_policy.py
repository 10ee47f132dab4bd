"""log p_old of Eq. 6, 8 and 9: the policy before the round on the round's pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import RatioError
from ..runtime.ranks import world
from .summing import add_up

RATIO_TOLERANCE = 1e-5  # between two passes of the same graph on the same rows
REPLAY_TOLERANCE = {torch.float32: 1e-3}  # against sampling, with another batch shape and a merged adapter
COARSE_TOLERANCE = 0.1  # the same in 16 bits (bf16 shifts the late steps by up to 0.04)

Values = dict[str, torch.Tensor]


class OldPolicy:
    """Stored log-probs (2, pair, T) of winners and losers, and for DPOK the means (2, pair, T, c, h, w).

    NaN is a value that is not computed yet. Values are float32 on the CPU.
    """

    def __init__(self, names: Sequence[str], pairs: int, T: int, latent_shape: tuple[int, ...]) -> None:
        rows = (2, pairs, T)
        shapes = {"log_prob": rows, "mean": (*rows, *latent_shape)}
        self.values: Values = {name: torch.full(shapes[name], float("nan")) for name in names}

    def store(self, pair: torch.Tensor, i: torch.Tensor, values: Values) -> None:
        """Store the values of these pairs and step indices (row,): log-probs (2, row), means (2 * row, c, h, w)."""
        for name in self.values:
            kept = self.values[name]
            kept[:, pair, i] = values[name].detach().cpu().float().view(2, len(pair), *kept.shape[3:])

    def get(self, pair: torch.Tensor, i: torch.Tensor, device: torch.device) -> Values:
        """The values (2, row, ...) of these pairs and step indices (row,)."""
        return {name: values[:, pair, i].to(device) for name, values in self.values.items()}

    def knows(self, pair: torch.Tensor, i: torch.Tensor) -> bool:
        """Whether all of these are computed."""
        return not bool(self.values["log_prob"][:, pair, i].isnan().any())

    def combine(self) -> None:
        """Combine the values that the processes have computed, in every process."""
        if world() == 1:
            return
        for name, values in self.values.items():
            total, count = values.nan_to_num(0.0), (~values.isnan()).float()
            add_up([total, count])
            self.values[name] = torch.where(count > 0, total / count, float("nan"))

    def check_same(self, pair: torch.Tensor, i: torch.Tensor, log_prob: torch.Tensor) -> None:
        """Raise RatioError if a second pass gives other log-probs (2, row) than the stored ones."""
        known = self.values["log_prob"][:, pair, i]
        off = (log_prob.detach().cpu() - known).abs().nan_to_num(0.0).max().item()
        if off > RATIO_TOLERANCE:
            raise RatioError(
                f"train: the same log_prob came out {off:.2g} apart in two passes (tolerance {RATIO_TOLERANCE}).",
                "The first ratio of Eq. 6 would not be 1. Set model.dtype to fp32.",
            )

    def check_replay(
        self, pair: torch.Tensor, i: torch.Tensor, sampled: torch.Tensor, dtype: torch.dtype, round: str
    ) -> None:
        """Raise RatioError if the losers' log-probs differ from those of sampling (pair, T).

        NaN in ``sampled`` is not compared: twins have no stored log-probs. dtype: the U-Net's.
        """
        seen = sampled[pair, i]
        known = ~seen.isnan()
        if not known.any():
            return
        off = (self.values["log_prob"][1, pair, i] - seen)[known].abs().max().item()
        tolerance = REPLAY_TOLERANCE.get(dtype, COARSE_TOLERANCE)
        if not off <= tolerance:
            raise RatioError(
                f"train: log_prob of the first batch differs from the stored one by {off:.2g} (tolerance {tolerance}).",
                "The adapter, model.dtype or device is not the one that sampled; make the round's images again with "
                f"'dvc repro -f -s sample@{round}', then run 'dvc repro'.",
            )
