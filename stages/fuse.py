"""Fuse: make the second image of each pair, by the parameter ``pairs``:

dfusion     the target: the base's noise denoised while it attends to the reference (Eq. 5)
inversion   the same picture, but its trajectory reconstructed by DDIM inversion (the paper's ablation)
same_noise  a twin of an image: the same x_T, other step noises (D3PO's pairs)
naive       none: the reference itself is the winner

reads   sample/, extract/, kv/   writes  fuse/  x, picture (one row per pair); twins.csv (same_noise)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfusion_core.diffusion.window import step_indices
from dfusion_core.pairing.plan import pair_name, twin_plan
from dfusion_core.params import load_params
from dfusion_core.params.rounds import previous
from dfusion_core.runtime.entry import run_stage
from dfusion_core.store import open_stage, read_stage
from dfusion_core.store.paths import adapter, output

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from dfusion_core.models.policy import Policy
    from dfusion_core.params import Params
    from dfusion_core.store import StageRun


def fuse(round: str) -> None:
    """Make the images of the pairs of ROUND that are not sampled ones."""
    params = load_params("model", "sample", "fuse", "pairs", "rounds")
    before = previous(params, round)
    inputs = {
        "adapter": output("train", before),
        "sample": output("sample", round),
        "extract": output("extract", round),
        "kv": output("kv", round),
    }
    with open_stage("fuse", round=round, params=params, inputs=inputs) as run:
        if run.done or params.pairs == "naive":
            return
        from dfusion_core.models.policy import load_policy

        policy = load_policy(params.model, params.sample, adapter(before))
        (twins if params.pairs == "same_noise" else targets)(round, run, params, policy)


def targets(round: str, run: StageRun, params: Params, policy: Policy) -> None:
    """Make the target of every (reference, base) pair; it equals the base if the reference's mask is empty."""
    sampled, extracted = (read_stage(name, round) for name in ("sample", "extract"))
    pairs = extracted.table("pairs")
    masked = ~extracted.table("references").empty_mask[pairs.reference].to_numpy()
    run.describe = lambda row: pair_name(pairs, row)
    for rows in run.unfinished(len(pairs), params.fuse.batch_size):
        part = pairs.loc[list(rows)]
        x = sampled.tensor("x", part.base_image)
        picture = sampled.tensor("picture", part.base_image)
        fused = masked[list(rows)]
        if fused.any():
            x[fused] = target_x(round, part[fused], params, policy)
        if params.pairs == "inversion":
            from dfusion_core.fusion.inversion import invert

            x = invert(policy, x[:, -1], policy.embed(part.prompt.tolist()))
        if fused.any() or params.pairs == "inversion":
            picture = policy.decode(x[:, -1])
        run.write(rows, x=x, picture=picture)


def target_x(round: str, pairs: pd.DataFrame, params: Params, policy: Policy) -> torch.Tensor:
    """Eq. 5 for these pairs: the targets' trajectories."""
    from dfusion_core.attention.layers import fused_layers
    from dfusion_core.diffusion.noise import trajectory_noises
    from dfusion_core.extraction.keys_values import stored_kv
    from dfusion_core.fusion.targets import References, denoise_fused

    sampled, extracted, cache = (read_stage(name, round) for name in ("sample", "extract", "kv"))
    steps = step_indices(params.fuse, params.sample.num_steps)
    references = References(
        sampled.tensor("x", pairs.reference_image),
        extracted.tensor("mask", pairs.reference),
        stored_kv(cache, pairs.reference.tolist(), steps),
    )
    _, noise = trajectory_noises(pairs.base_seed.tolist(), policy.latent_shape, params.sample.num_steps)
    return denoise_fused(
        policy,
        sampled.tensor("x", pairs.base_image),
        noise,
        policy.embed(pairs.prompt.tolist()),
        references,
        fused_layers(policy.unet, params.fuse.layers),
        steps,
    )


def twins(round: str, run: StageRun, params: Params, policy: Policy) -> None:
    """Denoise the first half of each prompt's x_T again, with other step noises."""
    plan = twin_plan(read_stage("sample", round).table("images"))
    run.describe = lambda row: pair_name(plan, row)
    for rows in run.unfinished(len(plan), params.fuse.batch_size):
        part = plan.loc[list(rows)]
        made = policy.sample(part.seed.tolist(), policy.embed(part.prompt.tolist()), step_seeds=part.twin_seed.tolist())
        run.write(rows, x=made.trajectories.x, picture=made.picture)
    run.write_table("twins", plan)


if __name__ == "__main__":
    run_stage(fuse)
