"""Fuse: denoise each target from its base's noise while it attends to the reference (Eq. 5).

reads   sample/, extract/, kv/   writes  fuse/  x, picture (one row a pair)
"""

from __future__ import annotations

from dfusion_core.artefacts import adapter, output, previous
from dfusion_core.entry import run_stage
from dfusion_core.params import load_params
from dfusion_core.store import open_stage, read_stage


def fuse(round: str) -> None:
    """Fuse every (reference, base) pair of ROUND."""
    params = load_params("model", "sample", "fuse", "pairs", "rounds")
    before = previous(params, round)
    inputs = {"adapter": output("train", before), "sample": output("sample", round),
              "extract": output("extract", round), "kv": output("kv", round)}
    with open_stage("fuse", round=round, params=params, inputs=inputs) as run:
        if run.done or params.pairs != "dfusion":
            return
        from dfusion_core.attention import present_layers
        from dfusion_core.denoise import References, denoise_fused
        from dfusion_core.extraction import stored_kv
        from dfusion_core.noise import trajectory_noises
        from dfusion_core.policy import load_policy
        from dfusion_core.trajectories import tensor

        sampled, extracted, cache = (read_stage(name, round) for name in ("sample", "extract", "kv"))
        pairs = extracted.table("pairs")
        policy = load_policy(params.model, params.sample, adapter(before))
        empty = policy.embed([""])
        run.describe = lambda row: f"pair {row} ('{pairs.prompt[row]}', base seed {pairs.base_seed[row]})"
        for rows in run.unfinished(len(pairs), params.fuse.batch_size):
            part = pairs.loc[list(rows)]
            references = References(
                tensor(sampled, "x", part.reference_image), tensor(extracted, "mask", part.reference),
                stored_kv(cache, part.reference.tolist(), params.sample.num_steps, params.fuse))
            _, noise = trajectory_noises(part.base_seed.tolist(), policy.latent_shape, params.sample.num_steps)
            x = denoise_fused(
                policy, tensor(sampled, "x", part.base_image), noise, policy.embed(part.prompt.tolist()), empty,
                references, present_layers(policy.unet, params.fuse.layers), params.fuse.first_step,
                params.fuse.last_step, [run.describe(row) for row in rows])
            run.write(rows, x=x, picture=policy.decode(x[:, -1]))


if __name__ == "__main__":
    run_stage(fuse)
