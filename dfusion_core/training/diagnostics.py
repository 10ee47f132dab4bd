"""Figures of training: one row per optimizer step, and one row per optimizer step and timestep.

The loss stays near log 2; informative are the log-ratios to the policy before the round, by timestep.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd
import torch

UPDATES = (
    "update",
    "loss",
    "margin",
    "implicit_accuracy",
    "winner_drift",
    "loser_drift",
    "largest_log_ratio",
    "clip_fraction",
    "gradient_norm",
    "epsilon_share_A",
    "epsilon_share_B",
)
TIMESTEPS = ("update", "t", "winner_drift", "loser_drift", "largest_log_ratio", "gradient_share")

SEEN = ("winner", "loser", "old_winner", "old_loser", "loss", "gradient")  # rows of ``seen``: of each term of an update


@dataclass
class Diagnostics:
    """Both tables as lists of rows, which can be saved with the state.

    drift: log p - log p_old, the log-ratio to the policy before the round. ``gradient_share``: the share of a timestep
    in the sum, over the terms of an update, of the norm of the loss's gradient with respect to the predicted noise.
    ``epsilon_share_A``, ``epsilon_share_B``: see `optimizer.epsilon_share`, for both matrices of the LoRA.
    """

    updates: list[dict[str, float]] = field(default_factory=list)
    timesteps: list[dict[str, float]] = field(default_factory=list)

    def add(
        self,
        update: int,
        seen: torch.Tensor,
        t: torch.Tensor,
        clip: float | None,
        norm: float,
        shares: dict[str, float],
    ) -> None:
        """Add one optimizer step.

        seen: (6, term), rows as in `SEEN`; t: (term,), their timesteps; clip: the clip range of the ratio, None if the
        loss has none; norm: of the gradient; shares: epsilon_share by matrix.
        """
        row = {"update": update, **_update_figures(seen, clip), "gradient_norm": norm}
        self.updates.append(row | {f"epsilon_share_{name}": share for name, share in shares.items()})
        self.timesteps += _timestep_figures(update, seen, t)

    def update_table(self) -> pd.DataFrame:
        """One row per optimizer step."""
        return pd.DataFrame(self.updates, columns=list(UPDATES)).astype({"update": int})

    def timestep_table(self) -> pd.DataFrame:
        """One row per optimizer step and timestep."""
        return pd.DataFrame(self.timesteps, columns=list(TIMESTEPS)).astype({"update": int, "t": int})


def _update_figures(seen: torch.Tensor, clip: float | None) -> dict[str, float]:
    winner, loser, old_winner, old_loser, loss, _ = seen
    drift_w, drift_l = winner - old_winner, loser - old_loser
    drifts = torch.cat([drift_w, drift_l])
    clipped = torch.zeros(1) if clip is None else (drifts.exp() - 1).abs() > clip
    return {
        "loss": loss.mean().item(),
        "margin": (drift_w - drift_l).mean().item(),
        "implicit_accuracy": ((drift_w > drift_l).float() + 0.5 * (drift_w == drift_l).float()).mean().item(),
        "winner_drift": drift_w.mean().item(),
        "loser_drift": drift_l.mean().item(),
        "largest_log_ratio": drifts.abs().max().item(),
        "clip_fraction": clipped.float().mean().item(),
    }


def _timestep_figures(update: int, seen: torch.Tensor, t: torch.Tensor) -> list[dict[str, float]]:
    drift, gradient = seen[:2] - seen[2:4], seen[5]
    total = gradient.sum().item()
    rows: list[dict[str, float]] = []
    for one in sorted(set(t.tolist()), reverse=True):
        at = t == one
        rows.append(
            {
                "update": update,
                "t": one,
                "winner_drift": drift[0, at].mean().item(),
                "loser_drift": drift[1, at].mean().item(),
                "largest_log_ratio": drift[:, at].abs().max().item(),
                "gradient_share": gradient[at].sum().item() / total if total else 0.0,
            }
        )
    return rows
