"""Train: update the adapter on the round's (winner, loser) trajectories.

reads   adapter and optimizer of the round before, sample/, fuse/, adopt/
writes  train/  adapter/, optimizer.safetensors, updates.csv (one row an optimizer step), live/ (the same for dvclive)
"""

from __future__ import annotations

from dfusion_core.artefacts import adapter, output, previous
from dfusion_core.entry import run_stage
from dfusion_core.params import load_params
from dfusion_core.store import open_stage, read_stage


def train(round: str) -> None:
    """Train the adapter of ROUND. A killed run continues after its last optimizer step."""
    params = load_params("algo", "model", "sample", "fuse", "train", "seed", "rounds")
    before = previous(params, round)
    inputs = {"adapter": output("train", before)} | {name: output(name, round) for name in ("sample", "fuse", "adopt")}
    with open_stage("train", round=round, params=params, inputs=inputs) as run:
        if run.done:
            return
        from dfusion_core.lora import save_lora
        from dfusion_core.optimizer import save_optimizer
        from dfusion_core.policy import load_policy
        from dfusion_core.tracking import write_live
        from dfusion_core.training import Trainer
        from dfusion_core.trajectories import load_pairs

        pairs = load_pairs(
            read_stage("sample", round), read_stage("fuse", round), read_stage("adopt", round),
            shared_steps=params.sample.num_steps - params.fuse.first_step)
        policy = load_policy(params.model, params.sample, adapter(before), train=True)
        trainer = Trainer(policy, pairs, params.train, seed=params.seed, round=round)
        trainer.resume(run.load_state(), optimizer_file=output("train", before) / "optimizer.safetensors")
        for _ in run.track(trainer.remaining(), trainer.updates, "update"):
            trainer.update()
            run.save_state(*trainer.state())
        save_lora(policy.unet, run.path("adapter"))
        save_optimizer(trainer.optimizer, trainer.parameters, run.path("optimizer.safetensors"))
        run.write_table("updates", trainer.history_table())
        write_live(trainer.history_table(), run.path("live"))


if __name__ == "__main__":
    run_stage(train)
