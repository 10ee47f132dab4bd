"""Train: update the adapter on the round's (winner, loser) trajectories.

reads   adapter, optimizer and reward history of the round before, sample/, score/, fuse/, adopt/
writes  train/  adapter/, pin.json (the base model's hashes), optimizer.safetensors, reward_history.csv (all scores
                so far), reward.json (the models that scored), updates.csv (one row per optimizer step), timesteps.csv
                (one row per optimizer step and t), live/ (updates.csv for dvclive)
        results/training/ROUND.json: the optimizer steps, for the summary
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from typing import TYPE_CHECKING

from dfusion_core.params import load_params
from dfusion_core.params.rounds import previous
from dfusion_core.rewards.identity import FILE as REWARD_FILE
from dfusion_core.rewards.identity import read_identity, require_same_reward
from dfusion_core.runtime.entry import run_stage
from dfusion_core.runtime.ranks import leads
from dfusion_core.store import open_stage, read_stage
from dfusion_core.store.paths import adapter, output

if TYPE_CHECKING:
    import pandas as pd

    from dfusion_core.params import Params
    from dfusion_core.rewards.identity import Identity
    from dfusion_core.store import StageRun


def train(round: str) -> None:
    """Train the adapter of ROUND. A killed run continues after its last optimizer step."""
    params = load_params("algo", "model", "sample", "train", "seed", "rounds")
    before = previous(params, round)
    inputs = {name: output(name, round) for name in ("sample", "score", "fuse", "adopt")}
    inputs |= {"adapter": output("train", before)}
    with open_stage("train", round=round, params=params, inputs=inputs) as run:
        if not run.done:
            update(round, before, run, params)
    if leads():
        from dfusion_core.evaluation.results import write_training_result

        write_training_result(round)


def update(round: str, before: str, run: StageRun, params: Params) -> None:
    """Take all optimizer steps of ROUND, from the adapter, optimizer and rewards of the round BEFORE."""
    from dfusion_core.models.lora import save_lora
    from dfusion_core.models.pins import FILE as PIN
    from dfusion_core.models.policy import load_policy
    from dfusion_core.pairing.plan import trained_pair_name
    from dfusion_core.training.advantages import advantages
    from dfusion_core.training.following import following
    from dfusion_core.training.objectives import needs_advantage, skips_shared_steps
    from dfusion_core.training.optimizer import save_optimizer
    from dfusion_core.training.tracking import write_live
    from dfusion_core.training.trainer import Trainer
    from dfusion_core.training.trajectories import load_pairs

    sampled = read_stage("sample", round)
    history, reward = scores_so_far(round, before, sampled.table("images"))
    normalised = partial(advantages, history=history, clip=params.train.advantage_clip)
    table = read_stage("adopt", round).table("training")
    run.describe = lambda row: trained_pair_name(table, sampled.table("images"), row)
    pairs = load_pairs(
        table,
        {"sample": sampled, "fuse": read_stage("fuse", round)},
        skips_shared_steps(params.algo),
        normalised if needs_advantage(params.algo) else None,
    )
    policy = load_policy(params.model, params.sample, adapter(before), train=True)
    trainer = Trainer(policy, pairs, params.train, seed=params.seed, round=round, algo=params.algo)
    trainer.resume(run.load_state(), optimizer_file=output("train", before) / "optimizer.safetensors")
    with following(round, run.fingerprint, trainer.diagnostics.updates) as show:
        for _ in run.track(trainer.remaining(), trainer.updates, "update"):
            trainer.update()
            run.save_state(*trainer.state())
            show(trainer.diagnostics.updates[-1])
    save_lora(policy.unet, run.path("adapter"))
    save_optimizer(trainer.optimizer, trainer.parameters, run.path("optimizer.safetensors"))
    run.write_table("reward_history", history)
    run.path(REWARD_FILE).write_text(json.dumps(reward, indent=2) + "\n")
    run.write_table("updates", trainer.diagnostics.update_table())
    run.write_table("timesteps", trainer.diagnostics.timestep_table())
    shutil.copyfile(output("train", before) / PIN, run.path(PIN))  # DVC makes linked files read-only; this one is not
    write_live(trainer.diagnostics.update_table(), run.path("live"))


def scores_so_far(round: str, before: str, images: pd.DataFrame) -> tuple[pd.DataFrame, Identity]:
    """The scores of all images sampled up to ROUND, whose ``images`` are given, and the reward that they come from.

    Raises RewardError if earlier rounds were scored by another reward.
    """
    from dfusion_core.training.advantages import extend

    scored, earlier = read_stage("score", round), read_stage("train", before)
    history, reward = earlier.table("reward_history"), read_identity(scored)
    if len(history):
        first = history["round"].iloc[0]
        require_same_reward({f"score@{first}": read_identity(earlier), f"score@{round}": reward})
    scores = scored.table("scores").merge(images[["image", "prompt"]], on="image", validate="one_to_one")
    return extend(history, round, scores), reward


if __name__ == "__main__":
    run_stage(train)
