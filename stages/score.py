"""Score: the reward R(x_0, c) of each sampled image.

reads   sample/; people's answers in labels/, if reward.human is not 0
writes  score/  embedding (one row per image), scores.csv (image, prompt_id, reward, clip, plug-ins), reward.json: the
                models that scored
"""

from __future__ import annotations

import json

from dfusion_core.pairing.plan import image_name
from dfusion_core.params import load_params
from dfusion_core.rewards.asked import human_inputs
from dfusion_core.rewards.identity import FILE as REWARD_FILE
from dfusion_core.rewards.plugins import reward_inputs
from dfusion_core.runtime.entry import run_stage
from dfusion_core.store import Input, open_stage, read_stage
from dfusion_core.store.paths import output


def score(round: str) -> None:
    """Score the sampled images of ROUND."""
    params = load_params("reward")
    inputs: dict[str, Input] = {"sample": output("sample", round)}
    inputs |= reward_inputs(params.reward)
    inputs |= human_inputs(params.reward, round)
    with open_stage("score", round=round, params=params, inputs=inputs) as run:
        if run.done:
            return
        from dfusion_core.models.device import pick_device
        from dfusion_core.rewards.scoring import load_reward
        from dfusion_core.rewards.tokens import check_reward_reach, texts

        sampled = read_stage("sample", round)
        images = sampled.table("images")
        people = None
        if params.reward.human:
            from dfusion_core.rewards.human import preferences

            people = preferences(params.reward, round, sampled)
        reward = load_reward(params.reward, pick_device("auto"), people)
        if cut := check_reward_reach(texts(images.prompt.tolist()), reward.clip.tokenizer, params.reward):
            run.say(cut)
        if cut := reward.margins_cut(*sampled.array("picture").shape[1:3]):
            run.say(cut)
        run.describe = lambda row: image_name(images, row)
        for rows in run.unfinished(len(images), params.reward.batch_size):
            part = images.loc[list(rows)]
            scores = reward(sampled.rows("picture", part.image), part.prompt.tolist())
            terms = {f"_{name}": value for name, value in {"reward": scores.reward, **scores.terms}.items()}
            run.write_arrays(rows, {"embedding": scores.embedding, **terms})
        columns = {name: run.collect(f"_{name}") for name in ("reward", *reward.terms)}
        run.write_table("scores", images[["image", "prompt_id"]].assign(**columns))
        run.path(REWARD_FILE).write_text(json.dumps(reward.identity(), indent=2) + "\n")


if __name__ == "__main__":
    run_stage(score)
