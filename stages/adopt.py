"""Adopt: keep a target where it scores well enough (Eq. 7), else fall back to its reference.

With ``pairs: same_noise`` there is nothing to adopt: of an image and its twin the better one wins.

reads   sample/, score/, extract/, fuse/
writes  adopt/  training.csv: per pair the winner, the loser and their rewards; figures.json: gains and distances
        results/pairs/ROUND.json: the same figures for ``dvc metrics``
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dfusion_core.params import load_params
from dfusion_core.rewards.plugins import reward_inputs
from dfusion_core.runtime.entry import run_stage
from dfusion_core.runtime.ranks import leads
from dfusion_core.store import open_stage, read_stage
from dfusion_core.store.atomic import write_text
from dfusion_core.store.json_files import read_json
from dfusion_core.store.paths import output, pairs_result

if TYPE_CHECKING:
    import pandas as pd

    from dfusion_core.params import Params
    from dfusion_core.rewards.scoring import Pictures, Scores
    from dfusion_core.store import StageData

Figures = dict[str, Any]


def adopt(round: str) -> None:
    """Build the training set of ROUND."""
    params = load_params("reward", "adopt", "pairs")
    inputs = {name: output(name, round) for name in ("sample", "score", "extract", "fuse")}
    inputs |= reward_inputs(params.reward)
    with open_stage("adopt", round=round, params=params, inputs=inputs) as run:
        if not run.done:
            make = {"naive": references, "same_noise": twins}.get(params.pairs, targets)
            training, figures = make(round, params)
            run.write_table("training", training)
            run.path("figures.json").write_text(json.dumps(figures, indent=2) + "\n")
            if "adopted" in figures:
                run.say(f"{figures['adopted']} of {figures['pairs']} targets adopted")
    if leads():
        write_text(pairs_result(round), (output("adopt", round) / "figures.json").read_text())


def targets(round: str, params: Params) -> tuple[pd.DataFrame, Figures]:
    """Targets, or the references of those that are not good enough, against bases, by Eq. 7."""
    from dfusion_core.adoption.figures import Views, fresh_gain, fused_figures
    from dfusion_core.adoption.tables import judged, kept

    sampled, scored, extracted = (read_stage(name, round) for name in ("sample", "score", "extract"))
    pairs = extracted.table("pairs")
    target = read_stage("fuse", round).rows("picture", pairs.pair)
    scores = rescore(params, scored, target, pairs)
    every = judged(pairs, scores.reward, params.adopt)
    base, reference = (Views.of(sampled, scored, pairs[f"{name}_image"]) for name in ("base", "reference"))
    figures = fused_figures(every, base, reference, Views(target, scores.embedding),
                            extracted.rows("mask", pairs.reference))
    figures["fresh_gain"] = fresh_gain(pairs, sampled.table("images"), scored.table("scores"))
    return kept(every, params.adopt), figures


def references(round: str, params: Params) -> tuple[pd.DataFrame, Figures]:
    """The references themselves against bases: naive pairs."""
    from dfusion_core.adoption.figures import Views, pair_figures
    from dfusion_core.adoption.tables import judged

    sampled, scored, extracted = (read_stage(name, round) for name in ("sample", "score", "extract"))
    training = judged(extracted.table("pairs"), None, params.adopt)
    reference, base = (Views.of(sampled, scored, training[f"{name}_image"]) for name in ("reference", "base"))
    return training, pair_figures(training.winner_reward, training.base_reward, reference, base)


def twins(round: str, params: Params) -> tuple[pd.DataFrame, Figures]:
    """Images against their twins."""
    from dfusion_core.adoption.figures import Views, pair_figures
    from dfusion_core.adoption.tables import twin_table

    sampled, scored, fused = (read_stage(name, round) for name in ("sample", "score", "fuse"))
    plan = fused.table("twins")
    twin = fused.rows("picture", plan.pair)
    scores = rescore(params, scored, twin, plan)
    training = twin_table(plan, scored.table("scores"), scores.reward)
    return training, pair_figures(training.winner_reward, training.loser_reward, Views(twin, scores.embedding),
                                  Views.of(sampled, scored, plan.image))


def rescore(params: Params, scored: StageData, pictures: Pictures, pairs: pd.DataFrame) -> Scores:
    """Scores of the pairs' new pictures, by the models that scored the sampled ones."""
    from dfusion_core.pairing.plan import pair_names
    from dfusion_core.rewards.scoring import check_same, load_reward
    from dfusion_core.runtime.device import pick_device

    reward = load_reward(params.reward, pick_device("auto"))
    check_same(read_json(scored.path("reward.json"), "clip.model", "clip.sha256", "plugins"), reward.identity())
    return reward(pictures, pairs.prompt.tolist(), pair_names(pairs))


if __name__ == "__main__":
    run_stage(adopt)
