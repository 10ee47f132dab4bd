"""Gradients of log-prob(winner) - log-prob(base) with respect to the adapter, by pair and timestep.

The expected gradient of an image that the policy sampled itself is zero: the sum over naive pairs (reference - base)
comes from their selection by reward. A fused target's steps were sampled by another policy, and their gradient has a
part that is common to all targets, independent of their scores. `coherence` measures it.

reads   sample/, extract/, fuse/ of a round and the adapter it sampled with   writes  gradients.csv
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from ...diffusion.window import step_indices
from ...errors import MissingStage
from ...models.lora import trainable
from ...models.policy import Policy, load_policy
from ...models.text import Text
from ...params import load_params
from ...params.rounds import previous
from ...store import read_stage
from ...store.paths import adapter
from .attention import first_pairs

ALL = "all"  # the row over all timesteps that `train` uses


def coherence(differences: torch.Tensor) -> float:
    """sqrt(n) |mean| / rms of n gradients (n, weight): 1 on average for pure noise, sqrt(n) if all are equal."""
    rms = differences.square().sum(dim=1).mean().sqrt()
    return float(len(differences) ** 0.5 * differences.mean(dim=0).norm() / rms) if rms > 0 else 0.0


def gradients(policy: Policy, x: torch.Tensor, i: int, text: Text) -> torch.Tensor:
    """Gradient of each image's log-prob at step index i with respect to the adapter, (n, weight), on the CPU.

    x: trajectories (n, T + 1, c, h, w); text: n prompts.
    """
    parameters = list(trainable(policy.unet).values())
    rows = []
    for row in range(len(x)):
        x_t, x_next = (x[row : row + 1, k].to(policy.device) for k in (i, i + 1))
        log_prob, _ = policy.log_prob(x_t, x_next, i, text[row : row + 1])
        found = torch.autograd.grad(log_prob.sum(), parameters)
        rows.append(torch.cat([part.flatten().float().cpu() for part in found]))
    return torch.stack(rows)


def figures(naive: torch.Tensor, fused: torch.Tensor) -> dict[str, float]:
    """Norm and coherence of both kinds of differences (n, weight), and the cosine of their means."""
    cosine = torch.nn.functional.cosine_similarity(naive.mean(dim=0), fused.mean(dim=0), dim=0)
    return {
        "naive_norm": float(naive.norm(dim=1).mean()),
        "fused_norm": float(fused.norm(dim=1).mean()),
        "naive_coherence": coherence(naive),
        "fused_coherence": coherence(fused),
        "cosine": float(cosine),
    }


def study_gradients(round: str, count: int, folder: Path) -> pd.DataFrame:
    """One row per timestep t, and one over all trained timesteps. Raises MissingStage if nothing was fused."""
    params = load_params("model", "sample", "train", "rounds")
    sampled, fused = read_stage("sample", round), read_stage("fuse", round)
    if "x" not in fused.names:
        raise MissingStage(
            f"study: {round} has no fused targets.", f"Make them with 'dvc repro -s fuse@{round}' and pairs: dfusion."
        )
    pairs = first_pairs(read_stage("extract", round).table("pairs"), count)
    policy = load_policy(params.model, params.sample, adapter(previous(params, round)), train=True)
    text = policy.embed(pairs.prompt.tolist())
    steps = policy.schedule.num_steps
    x = {
        "base": sampled.tensor("x", pairs.base_image),
        "reference": sampled.tensor("x", pairs.reference_image),
        "target": fused.tensor("x", pairs.pair),
    }
    rows, total = [], None
    for i in step_indices(params.train, steps):
        g = {name: gradients(policy, some, i, text) for name, some in x.items()}
        both = torch.stack([g["reference"] - g["base"], g["target"] - g["base"]])
        total = both if total is None else total + both
        rows.append({"t": str(steps - i)} | figures(*both))
    assert total is not None
    table = pd.DataFrame([*rows, {"t": ALL} | figures(*total)])
    folder.mkdir(parents=True, exist_ok=True)
    table.round(6).to_csv(folder / "gradients.csv", index=False)
    return table
