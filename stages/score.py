"""Score: how well each sampled image shows its prompt.

reads   sample/   writes  score/scores.csv (image, prompt_id, reward)
"""

from __future__ import annotations

from dfusion_core.artefacts import output, reward_inputs
from dfusion_core.entry import run_stage
from dfusion_core.params import load_params
from dfusion_core.store import open_stage, read_stage


def score(round: str) -> None:
    """Score the sampled images of ROUND."""
    params = load_params("reward")
    inputs = {"sample": output("sample", round)} | reward_inputs(params.reward.model)
    with open_stage("score", round=round, params=params, inputs=inputs) as run:
        if run.done:
            return
        from dfusion_core.policy import pick_device
        from dfusion_core.rewards import load_reward

        sampled = read_stage("sample", round)
        scores = sampled.table("images")[["image", "prompt_id", "prompt"]]
        reward = load_reward(params.reward, pick_device("auto"))
        scores = scores.assign(reward=reward(sampled.rows("picture", scores.image), scores.prompt.tolist()))
        run.write_table("scores", scores[["image", "prompt_id", "reward"]])


if __name__ == "__main__":
    run_stage(score)
