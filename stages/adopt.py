"""Adopt: adopt targets that score well enough (Eq. 7), else fall back to their references.

With ``pairs: same_noise`` Eq. 7 is not applied: the better one of an image and its twin wins. Pairs with equal
rewards are left out.

reads   sample/, score/, extract/, fuse/; people's answers in labels/, if reward.human is not 0
writes  adopt/  training.csv: winner and loser of each pair; targets.csv: which targets were adopted
                (dfusion, inversion); figures.json: gains and distances
        results/pairs/ROUND.json: the same figures for ``dvc metrics``
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dfusion_core.params import load_params
from dfusion_core.rewards.asked import human_inputs
from dfusion_core.rewards.plugins import reward_inputs
from dfusion_core.runtime.entry import run_stage
from dfusion_core.runtime.ranks import leads
from dfusion_core.store import Input, open_stage, read_stage
from dfusion_core.store.atomic import write_text
from dfusion_core.store.paths import output, pairs_result

if TYPE_CHECKING:
    import pandas as pd

    from dfusion_core.params import Params
    from dfusion_core.rewards.scoring import Pictures, Scores
    from dfusion_core.store import StageData, StageRun

Figures = dict[str, Any]


def adopt(round: str) -> None:
    """Build the training set of ROUND."""
    params = load_params("reward", "adopt", "pairs")
    inputs: dict[str, Input] = {name: output(name, round) for name in ("sample", "score", "extract", "fuse")}
    inputs |= reward_inputs(params.reward)
    inputs |= human_inputs(params.reward, round, targets=True) if params.pairs != "naive" else {}
    with open_stage("adopt", round=round, params=params, inputs=inputs) as run:
        if not run.done:
            make = {"naive": references, "same_noise": twins}.get(params.pairs, targets)
            write(run, *make(round, run, params))
    if leads():
        write_text(pairs_result(round), (output("adopt", round) / "figures.json").read_text())


def write(run: StageRun, training: pd.DataFrame, figures: Figures) -> None:
    """The training set without ties, and its figures."""
    from dfusion_core.adoption.tables import without_ties

    different = without_ties(training)
    figures["ties"] = len(training) - len(different)
    run.write_table("training", different)
    run.path("figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    if "adopted" in figures:
        run.say(f"{figures['adopted']} of {figures['pairs']} targets adopted")
    if figures["ties"]:
        run.say(f"{figures['ties']} of {len(training)} pairs have equal rewards and are left out")


def targets(round: str, run: StageRun, params: Params) -> tuple[pd.DataFrame, Figures]:
    """Adopted targets (Eq. 7), or their references, against bases."""
    from dfusion_core.adoption.figures import Views, fresh_gain, fused_figures
    from dfusion_core.adoption.tables import fused_training, target_table

    sampled, scored, extracted = (read_stage(name, round) for name in ("sample", "score", "extract"))
    pairs = extracted.table("pairs")
    without_mask = extracted.table("references").empty_mask[pairs.reference].to_numpy()
    target = read_stage("fuse", round).rows("picture", pairs.pair)
    scores = rescore(run, params, scored, target, pairs)
    table = target_table(pairs, scores.reward, without_mask, params.adopt)
    run.write_table("targets", table)
    base, reference = (Views.of(sampled, scored, pairs[f"{name}_image"]) for name in ("base", "reference"))
    figures = fused_figures(
        pairs, table, base, reference, Views(target, scores.embedding), extracted.rows("mask", pairs.reference)
    )
    figures["fresh_gain"] = fresh_gain(pairs, sampled.table("images"), scored.table("scores"))
    figures["empty_masks"] = int(without_mask.sum())
    return fused_training(pairs, table, params.adopt), figures


def references(round: str, run: StageRun, params: Params) -> tuple[pd.DataFrame, Figures]:
    """The references themselves against bases: naive pairs."""
    from dfusion_core.adoption.figures import Views, pair_figures
    from dfusion_core.adoption.tables import reference_training

    sampled, scored, extracted = (read_stage(name, round) for name in ("sample", "score", "extract"))
    pairs = extracted.table("pairs")
    training = reference_training(pairs)
    reference, base = (Views.of(sampled, scored, pairs[f"{name}_image"]) for name in ("reference", "base"))
    return training, pair_figures(training, reference, base)


def twins(round: str, run: StageRun, params: Params) -> tuple[pd.DataFrame, Figures]:
    """Images against their twins."""
    from dfusion_core.adoption.figures import Views, pair_figures
    from dfusion_core.adoption.tables import twin_training

    sampled, scored, fused = (read_stage(name, round) for name in ("sample", "score", "fuse"))
    plan = fused.table("twins")
    twin = fused.rows("picture", plan.pair)
    scores = rescore(run, params, scored, twin, plan)
    training = twin_training(plan, scored.table("scores"), scores.reward)
    return training, pair_figures(training, Views(twin, scores.embedding), Views.of(sampled, scored, plan.image))


def rescore(run: StageRun, params: Params, scored: StageData, pictures: Pictures, pairs: pd.DataFrame) -> Scores:
    """Scores of the pairs' new pictures, by the same models as the sampled ones."""
    from dfusion_core.models.device import pick_device
    from dfusion_core.pairing.plan import pair_name
    from dfusion_core.rewards.identity import read_identity, require_same_reward
    from dfusion_core.rewards.scoring import load_reward
    from dfusion_core.rewards.targets import people_on_targets

    run.describe = lambda row: pair_name(pairs, row)
    device = pick_device("auto")
    people = people_on_targets(run, params.reward, device, pictures, pairs) if params.reward.human else None
    reward = load_reward(params.reward, device, people)
    require_same_reward({f"score@{run.round}": read_identity(scored), f"adopt@{run.round}": reward.identity()})
    return reward(pictures, pairs.prompt.tolist())


if __name__ == "__main__":
    run_stage(adopt)
