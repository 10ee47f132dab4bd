"""Fuse: make the second image of each pair. What that is, parameter ``pairs`` says:

dfusion     the target: its base's noise denoised while it attends to the reference (Eq. 5)
inversion   the same picture, but its trajectory guessed back from it by DDIM inversion (the paper's ablation)
same_noise  a twin of an image: the same x_T, other step noises (D3PO's pairs)
naive       nothing: the reference itself wins

reads   sample/, extract/, kv/   writes  fuse/  x, picture (one row a pair); twins.csv (same_noise)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfusion_core.pairing.plan import twin_plan
from dfusion_core.params import load_params
from dfusion_core.params.rounds import previous
from dfusion_core.runtime.entry import run_stage
from dfusion_core.store import open_stage, read_stage
from dfusion_core.store.paths import adapter, output

if TYPE_CHECKING:
    from dfusion_core.models.policy import Policy
    from dfusion_core.params import Params
    from dfusion_core.store import StageRun


def fuse(round: str) -> None:
    """Make the images that the pairs of ROUND need beside the sampled ones."""
    params = load_params("model", "sample", "fuse", "pairs", "rounds")
    before = previous(params, round)
    inputs = {"adapter": output("train", before), "sample": output("sample", round),
              "extract": output("extract", round), "kv": output("kv", round)}
    with open_stage("fuse", round=round, params=params, inputs=inputs) as run:
        if run.done or params.pairs == "naive":
            return
        from dfusion_core.models.policy import load_policy

        policy = load_policy(params.model, params.sample, adapter(before))
        (twins if params.pairs == "same_noise" else targets)(round, run, params, policy)


def targets(round: str, run: StageRun, params: Params, policy: Policy) -> None:
    """Fuse every (reference, base) pair."""
    from dfusion_core.attention.layers import present_layers
    from dfusion_core.diffusion.denoise import References, denoise_fused, invert
    from dfusion_core.diffusion.noise import trajectory_noises
    from dfusion_core.extraction.keys_values import stored_kv

    sampled, extracted, cache = (read_stage(name, round) for name in ("sample", "extract", "kv"))
    pairs, empty = extracted.table("pairs"), policy.embed([""])
    run.describe = lambda row: f"pair {row} ('{pairs.prompt[row]}', base seed {pairs.base_seed[row]})"
    for rows in run.unfinished(len(pairs), params.fuse.batch_size):
        part, names = pairs.loc[list(rows)], [run.describe(row) for row in rows]
        references = References(
            sampled.tensor("x", part.reference_image), extracted.tensor("mask", part.reference),
            stored_kv(cache, part.reference.tolist(), params.sample.num_steps, params.fuse))
        _, noise = trajectory_noises(part.base_seed.tolist(), policy.latent_shape, params.sample.num_steps)
        text = policy.embed(part.prompt.tolist())
        x = denoise_fused(
            policy, sampled.tensor("x", part.base_image), noise, text, empty, references,
            present_layers(policy.unet, params.fuse.layers), params.fuse.first_step, params.fuse.last_step, names)
        if params.pairs == "inversion":
            x = invert(policy, x[:, -1], text, empty, names)
        run.write(rows, x=x, picture=policy.decode(x[:, -1], names))


def twins(round: str, run: StageRun, params: Params, policy: Policy) -> None:
    """Denoise the first half of each prompt's x_T once more, with other step noises."""
    from dfusion_core.diffusion.denoise import denoise
    from dfusion_core.diffusion.noise import trajectory_noises

    plan, empty = twin_plan(read_stage("sample", round).table("images")), policy.embed([""])
    run.describe = lambda row: f"twin {row} ('{plan.prompt[row]}', seed {plan.seed[row]})"
    for rows in run.unfinished(len(plan), params.fuse.batch_size):
        part, T = plan.loc[list(rows)], params.sample.num_steps
        x_T, _ = trajectory_noises(part.seed.tolist(), policy.latent_shape, T)
        _, noise = trajectory_noises(part.twin_seed.tolist(), policy.latent_shape, T)
        names = [run.describe(row) for row in rows]
        found = denoise(policy, x_T, noise, policy.embed(part.prompt.tolist()), empty, names)
        run.write(rows, x=found.x, picture=policy.decode(found.x[:, -1], names))
    run.write_table("twins", plan)


if __name__ == "__main__":
    run_stage(fuse)
