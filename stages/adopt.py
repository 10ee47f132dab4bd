"""Adopt: keep a target where it scores well enough (Eq. 7), else fall back to its reference.

With ``pairs: same_noise`` there is nothing to adopt: of an image and its twin the better one wins.

reads   score/, extract/, fuse/
writes  adopt/training.csv: per pair the winner (target or reference), the loser (base) and their rewards
"""

from __future__ import annotations

from dfusion_core.artefacts import output, reward_inputs
from dfusion_core.entry import run_stage
from dfusion_core.params import load_params
from dfusion_core.store import open_stage, read_stage


def adopt(round: str) -> None:
    """Build the training set of ROUND."""
    params = load_params("reward", "adopt", "pairs")
    inputs = {name: output(name, round) for name in ("score", "extract", "fuse")}
    inputs |= reward_inputs(params.reward.model)
    with open_stage("adopt", round=round, params=params, inputs=inputs) as run:
        if run.done:
            return
        from dfusion_core.adoption import training_table, twin_table
        from dfusion_core.policy import pick_device
        from dfusion_core.rewards import load_reward

        fused = read_stage("fuse", round)
        same_noise = params.pairs == "same_noise"
        pairs = fused.table("twins") if same_noise else read_stage("extract", round).table("pairs")
        reward = None
        if params.pairs != "naive":
            pictures = fused.rows("picture", pairs.pair)
            reward = load_reward(params.reward, pick_device("auto"))(pictures, pairs.prompt.tolist())
        if same_noise and reward is not None:
            training = twin_table(pairs, read_stage("score", round).table("scores"), reward)
            run.say(f"{int(training.twin_wins.sum())} of {len(pairs)} twins are better than their image")
        else:
            training = training_table(pairs, reward, params.adopt)
            run.say(f"{int(training.adopted.sum())} of {len(pairs)} targets adopted")
        run.write_table("training", training)


if __name__ == "__main__":
    run_stage(adopt)
