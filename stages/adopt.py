"""Adopt: keep a target where it scores well enough (Eq. 7), else fall back to its reference.

With ``pairs: same_noise`` there is nothing to adopt: of an image and its twin the better one wins.

reads   sample/, score/, extract/, fuse/
writes  adopt/  training.csv: per pair the winner, the loser and their rewards; figures.json: gains and distances
        results/pairs/ROUND.json: the same figures for ``dvc metrics``
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dfusion_core.artefacts import output, pairs_result, reward_inputs
from dfusion_core.entry import run_stage
from dfusion_core.params import load_params
from dfusion_core.store import open_stage, read_stage
from dfusion_core.store.atomic import write_text

if TYPE_CHECKING:
    import pandas as pd

    from dfusion_core.consistency import Embed
    from dfusion_core.params import Params
    from dfusion_core.rewards import Scorer

Figures = dict[str, Any]


def adopt(round: str) -> None:
    """Build the training set of ROUND."""
    params = load_params("reward", "adopt", "pairs")
    inputs = {name: output(name, round) for name in ("sample", "score", "extract", "fuse")}
    inputs |= reward_inputs(params.reward.model)
    with open_stage("adopt", round=round, params=params, inputs=inputs) as run:
        if not run.done:
            from dfusion_core.policy import pick_device
            from dfusion_core.rewards import load_reward

            reward = load_reward(params.reward, pick_device("auto"))
            training, figures = (twins if params.pairs == "same_noise" else winners)(round, params, reward)
            run.write_table("training", training)
            run.path("figures.json").write_text(json.dumps(figures, indent=2) + "\n")
            if "adopted" in figures:
                run.say(f"{figures['adopted']} of {figures['pairs']} targets adopted")
    write_text(pairs_result(round), (output("adopt", round) / "figures.json").read_text())


def winners(round: str, params: Params, reward: Scorer) -> tuple[pd.DataFrame, Figures]:
    """Targets and references against bases, by Eq. 7."""
    from dfusion_core.adoption import judged, kept
    from dfusion_core.consistency import fresh_gain, fused_figures, pair_figures

    embed = embedding(reward)
    sampled, extracted = read_stage("sample", round), read_stage("extract", round)
    pairs = extracted.table("pairs")
    base, reference = (sampled.rows("picture", pairs[f"{name}_image"]) for name in ("base", "reference"))
    if params.pairs == "naive":
        every = judged(pairs, None, params.adopt)
        return every, pair_figures(every.winner_reward, every.base_reward, reference, base, embed)
    target = read_stage("fuse", round).rows("picture", pairs.pair)
    every = judged(pairs, reward(target, pairs.prompt.tolist()), params.adopt)
    figures = fused_figures(every, base, reference, target, extracted.rows("mask", pairs.reference), embed)
    figures["fresh_gain"] = fresh_gain(pairs, sampled.table("images"), read_stage("score", round).table("scores"))
    return kept(every, params.adopt), figures


def twins(round: str, params: Params, reward: Scorer) -> tuple[pd.DataFrame, Figures]:
    """Images against their twins."""
    from dfusion_core.adoption import twin_table
    from dfusion_core.consistency import pair_figures

    sampled, fused = read_stage("sample", round), read_stage("fuse", round)
    plan, scores = fused.table("twins"), read_stage("score", round).table("scores")
    image, twin = sampled.rows("picture", plan.image), fused.rows("picture", plan.pair)
    training = twin_table(plan, scores, reward(twin, plan.prompt.tolist()))
    return training, pair_figures(training.winner_reward, training.loser_reward, twin, image, embedding(reward))


def embedding(reward: Scorer) -> Embed:
    """The reward model's view of pictures, as arrays."""
    return lambda pictures: reward.embed_pictures(pictures).numpy()


if __name__ == "__main__":
    run_stage(adopt)
