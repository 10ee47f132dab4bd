"""Sample: denoise N images per prompt and keep everything Algorithm 1 needs later.

reads   adapter of the round before, the prompt file
writes  sample/  x, log_prob, cross_map, picture (one row an image), images.csv
"""

from __future__ import annotations

from dfusion_core.pairing.plan import image_plan
from dfusion_core.params import load_params
from dfusion_core.params.rounds import previous
from dfusion_core.prompts.reading import find_file, load_prompts
from dfusion_core.runtime.entry import run_stage
from dfusion_core.store import open_stage
from dfusion_core.store.paths import adapter, output


def sample(round: str) -> None:
    """Sample every training prompt's images of ROUND."""
    params = load_params("model", "prompts", "sample", "seed", "rounds")
    before = previous(params, round)
    prompts = load_prompts(params.prompts.file).first(params.prompts.train_count, None).train
    inputs = {"adapter": output("train", before), "prompts": find_file(params.prompts.file)}
    with open_stage("sample", round=round, params=params, inputs=inputs) as run:
        if run.done:
            return
        from dfusion_core.attention.masks import item_tokens
        from dfusion_core.diffusion.denoise import denoise
        from dfusion_core.diffusion.noise import trajectory_noises
        from dfusion_core.models.policy import load_policy

        images = image_plan(prompts, params.sample.images_per_prompt, params.seed, round)
        policy = load_policy(params.model, params.sample, adapter(before))
        text, empty = policy.embed([p.text for p in prompts]), policy.embed([""])
        tokens = [[item_tokens(policy.tokenizer, p.text, item) for item in p.items] for p in prompts]
        run.describe = lambda row: f"image {row} ('{images.prompt[row]}', seed {images.seed[row]})"
        for rows in run.unfinished(len(images), params.sample.batch_size):
            part = images.loc[list(rows)]
            which = part.prompt_id.tolist()
            x_T, noise = trajectory_noises(part.seed.tolist(), policy.latent_shape, params.sample.num_steps)
            names = [run.describe(row) for row in rows]
            found = denoise(policy, x_T, noise, text[which], empty, names,
                            [tokens[p] for p in which], params.sample.maps, max(map(len, tokens)))
            run.write(rows, x=found.x, log_prob=found.log_prob, cross_map=found.cross_map,
                      picture=policy.decode(found.x[:, -1], names))
        run.write_table("images", images)


if __name__ == "__main__":
    run_stage(sample)
