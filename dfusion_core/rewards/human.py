"""People's preferences as a reward: Bradley-Terry scores of the sampled images, from the answers in labels/ROUND.csv.

A score is relative to the other images of its prompt in the round (their mean is 0), in logits. A target is scored
relative to its reference: equal if people see no difference, otherwise above or below it. Pictures are identified by a
hash of their pixels: an image that is made again with the same pixels keeps its answers; answers about pictures that no
longer exist are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import LabelError
from ..labels.answers import SKIP, Answer, read_answers
from ..labels.asking import Informative, Question, fit_group
from ..labels.bradley_terry import fit_beside
from ..labels.content import content_hash
from ..labels.listed import Listed
from ..store.paths import labels_file

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from ..params import Reward
    from ..store import StageData

VERSION = "people's answers, Bradley-Terry 1"
SOME = 64  # pictures read at a time


class Preferences:
    """A reward with the interface of `plugins.Plugin`: scores of the pictures that people have judged."""

    def __init__(self, scores: Mapping[str, float]) -> None:
        """scores: by the hash of the picture."""
        self.scores = dict(scores)

    def __call__(self, pictures: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Scores (n,) of pictures (n, 3, height, width) uint8. Raises LabelError for an unknown picture."""
        import torch

        rows = pictures.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        try:
            return torch.tensor([self.scores[content_hash(row)] for row in rows], dtype=torch.float64).float()
        except KeyError:
            raise LabelError("reward.human: a picture is to be scored that is none of the round's.") from None

    def identity(self) -> str:
        """The method of scoring. The answers are inputs in the fingerprint."""
        return VERSION


def picture_hashes(stage: StageData, rows: Iterable[int]) -> list[str]:
    """The hashes of an output's pictures, in the order of ``rows``."""
    wanted = list(rows)
    return [
        content_hash(picture)
        for start in range(0, len(wanted), SOME)
        for picture in stage.rows("picture", wanted[start : start + SOME])
    ]


def groups_of(hashes: Sequence[str], prompts: Sequence[str]) -> dict[str, list[str]]:
    """The pictures to compare, by prompt; images with equal pixels are one picture."""
    found: dict[str, list[str]] = {}
    for name, prompt in zip(hashes, prompts, strict=True):
        if name not in found.setdefault(prompt, []):
            found[prompt].append(name)
    return found


def preferences(reward: Reward, round: str, sampled: StageData) -> Preferences:
    """Scores of the sampled images of a round. Raises LabelError with the number of missing answers."""
    images = sampled.table("images")
    groups = groups_of(picture_hashes(sampled, images.image), images.prompt.tolist())
    answers = read_answers(labels_file(round))
    progress = Informative(groups, reward.human_answers).progress("", answers)
    if progress.done < progress.needed:
        raise missing("score", round, progress.needed - progress.done, progress.needed, f"dfusion label {round}")
    scores: dict[str, float] = {}
    for names in groups.values():
        scores |= zip(names, fit_group(names, answers).score.tolist(), strict=True)
    return Preferences(scores)


def target_preferences(
    round: str, pairs: Sequence[Question], known: Mapping[str, float], answers: Sequence[Answer]
) -> Preferences:
    """Scores of new pictures, each relative to the sampled one that it was compared with.

    pairs: the new picture and the sampled one, by hash; known: scores of the sampled ones. Raises LabelError.
    """
    progress = Listed(pairs, everybody=False).progress("", answers)
    if progress.done < progress.needed:
        raise missing(
            "adopt", round, progress.needed - progress.done, progress.needed, f"dfusion label {round} --targets"
        )
    return Preferences(beside(pairs, known, answers))


def beside(pairs: Sequence[Question], known: Mapping[str, float], answers: Sequence[Answer]) -> dict[str, float]:
    """The score of each new picture (the first of its pair), from the answers about it and the sampled one."""
    said: dict[frozenset[str], list[Answer]] = {}
    for one in answers:
        if one.answer != SKIP:
            said.setdefault(one.pair, []).append(one)
    found: dict[str, list[float]] = {}
    for new, old in dict.fromkeys((pair.pictures[0], pair.pictures[1]) for pair in pairs):
        won = [one.share if one.first == new else 1 - one.share for one in said.get(frozenset((new, old)), [])]
        found.setdefault(new, []).append(fit_beside(known[old], won))
    scores = {name: float(np.mean(several)) for name, several in found.items()}
    return {old: known[old] for pair in pairs for old in pair.pictures[1:]} | scores


def target_pairs(prompts: Sequence[str], targets: Sequence[str], references: Sequence[str]) -> list[Question]:
    """A question for each pair, target and reference or twin and image; none if the pictures are equal."""
    rows = zip(prompts, targets, references, strict=True)
    return [Question(prompt, (new, old)) for prompt, new, old in dict.fromkeys(rows) if new != old]


def known_scores(sampled: StageData, scores: pd.DataFrame, images: Iterable[int]) -> dict[str, float]:
    """People's scores of these sampled images, by hash, as ``score`` stored them."""
    rows = list(dict.fromkeys(int(image) for image in images))
    return dict(zip(picture_hashes(sampled, rows), scores["human"].to_numpy(float)[rows].tolist(), strict=True))


def missing(stage: str, round: str, lacking: int, needed: int, command: str) -> LabelError:
    """The error for missing answers, with the command that asks for them."""
    what = "targets" if stage == "adopt" else "images"
    return LabelError(
        f"{stage}: {lacking} of {needed} answers about the {what} of {round} are missing, and "
        "reward.human waits for them.",
        f"Give them with '{command}', then go on with 'dvc repro'.",
    )
