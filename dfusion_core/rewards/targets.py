"""Scores of the new pictures of a round's pairs if people's preferences are in the reward: by people, or by a head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..labels.answers import read_answers
from ..store import read_stage
from ..store.paths import labels_file
from .head import fit_head
from .human import Preferences, known_scores, picture_hashes, target_pairs, target_preferences
from .scoring import Clip

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from ..labels.asking import Question
    from ..params import Reward
    from ..store import StageRun
    from .scoring import Pictures


def opponents(pairs: pd.DataFrame) -> pd.Series:
    """The sampled image that each new picture is compared with: a target's reference, a twin's image."""
    return pairs["reference_image" if "reference_image" in pairs else "image"]


def questions(round: str, pairs: pd.DataFrame) -> list[Question]:
    """The questions about the pairs of a round: the new picture against the sampled one, by their hashes."""
    new = picture_hashes(read_stage("fuse", round), pairs.pair)
    old = picture_hashes(read_stage("sample", round), opponents(pairs))
    return target_pairs(pairs.prompt.tolist(), new, old)


def people_on_targets(
    run: StageRun, reward: Reward, device: torch.device, pictures: Pictures, pairs: pd.DataFrame
) -> Preferences:
    """People's scores of the pairs' new pictures (n, row, column, rgb). Raises LabelError if answers are missing."""
    sampled, scores = read_stage("sample", run.round), read_stage("score", run.round)
    known = known_scores(sampled, scores.table("scores"), opponents(pairs))
    if reward.human_targets == "people":
        answers = read_answers(labels_file(run.round, targets=True))
        return target_preferences(run.round, questions(run.round, pairs), known, answers)
    return by_head(run, reward, device, pictures, pairs, known)


def by_head(
    run: StageRun,
    reward: Reward,
    device: torch.device,
    pictures: Pictures,
    pairs: pd.DataFrame,
    known: dict[str, float],
) -> Preferences:
    """Scores by a head that is fitted on the answers about the sampled images; prints its accuracy."""
    sampled, seen = read_stage("sample", run.round), read_stage("score", run.round)
    every = list(range(sampled.count))
    hashes = picture_hashes(sampled, every)
    head = fit_head(dict(zip(hashes, seen.rows("embedding", every), strict=True)), read_answers(labels_file(run.round)))
    if head.accuracy is None:
        run.say(f"the head on CLIP's embeddings is fitted on {head.count} answers, of one prompt: not cross-validated")
    else:
        run.say(
            f"the head on CLIP's embeddings agrees with {head.accuracy:.0%} of {head.count} answers about prompts "
            "that it was not fitted on (chance: 50%)"
        )
    new = Clip(reward.model, reward.pretrained, reward.batch_size, device).embed_pictures(pictures).numpy()
    names = picture_hashes(read_stage("fuse", run.round), pairs.pair)
    beside = [hashes[image] for image in opponents(pairs)]
    leads = head.lead(new, seen.rows("embedding", opponents(pairs)))
    found = {name: known[other] + float(lead) for name, other, lead in zip(names, beside, leads, strict=True)}
    return Preferences(known | found)
