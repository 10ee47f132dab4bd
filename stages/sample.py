"""Sample: denoise K images per prompt and store their trajectories and maps.

reads   adapter of the round before, the prompts' texts and items
writes  sample/  x, log_prob, cross_map, picture (one row per image), images.csv
"""

from __future__ import annotations

from dfusion_core.pairing.plan import image_name, image_plan
from dfusion_core.params import load_params
from dfusion_core.params.rounds import previous
from dfusion_core.prompts.reading import load_prompts
from dfusion_core.prompts.texts import texts_input
from dfusion_core.runtime.entry import run_stage
from dfusion_core.store import Input, open_stage
from dfusion_core.store.paths import adapter, output


def sample(round: str) -> None:
    """Sample the images of ROUND for every training prompt."""
    params = load_params("model", "prompts", "sample", "seed", "rounds")
    before = previous(params, round)
    chosen = load_prompts(params.prompts.file).first(params.prompts.train_count, params.prompts.test_count)
    prompts = chosen.train
    inputs: dict[str, Input] = {"adapter": output("train", before), "texts": texts_input(params.prompts)}
    with open_stage("sample", round=round, params=params, inputs=inputs) as run:
        if run.done:
            return
        from dfusion_core.diffusion.denoise import Capture
        from dfusion_core.models.layers import check_layers
        from dfusion_core.models.policy import load_policy
        from dfusion_core.prompts.reach import check_reach

        images = image_plan(prompts, params.sample.images_per_prompt, params.seed, round)
        policy = load_policy(params.model, params.sample, adapter(before))
        check_layers(policy.unet)
        if cut := check_reach((*prompts, *chosen.test), policy.encode.readers(), params.sample.negative_prompt):
            run.say(cut)
        text = policy.embed([p.text for p in prompts])
        tokens = [[policy.encode.positions(p.text, item) for item in p.items] for p in prompts]
        run.describe = lambda row: image_name(images, row)
        for rows in run.unfinished(len(images), params.sample.batch_size):
            part = images.loc[list(rows)]
            which = part.prompt_id.tolist()
            capture = Capture(params.sample.maps, [tokens[p] for p in which], max(map(len, tokens)))
            made = policy.sample(part.seed.tolist(), text[which], capture=capture)
            x, log_prob, cross_map = made.trajectories.x, made.trajectories.log_prob, made.trajectories.cross_map
            run.write(rows, x=x, log_prob=log_prob, cross_map=cross_map, picture=made.picture)
        run.write_table("images", images)


if __name__ == "__main__":
    run_stage(sample)
