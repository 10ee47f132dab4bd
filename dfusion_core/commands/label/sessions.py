"""The sessions of `dfusion label`: the sampled images of a round, or its targets."""

from __future__ import annotations

from ...errors import LabelError
from ...labelling.pictures import Pictures
from ...labelling.session import Session
from ...labels.asking import Informative, Question
from ...labels.listed import Listed
from ...params import load_params
from ...rewards.human import groups_of, target_pairs
from ...rewards.targets import opponents
from ...store import read_stage
from ...store.paths import labels_file


def image_session(round: str) -> tuple[Session, Pictures]:
    """An order of the sampled images of each prompt. Raises MissingStage."""
    reward, sampled, pictures = load_params("reward").reward, read_stage("sample", round), Pictures()
    images = sampled.table("images")
    hashes = pictures.add(sampled, images.image)
    groups = groups_of(hashes, images.prompt.tolist())
    prompts = {name: prompt for prompt, names in groups.items() for name in names}
    return Session(
        labels_file(round), Informative(groups, reward.human_answers), prompts, f"dfusion label {round}", orders=True
    ), pictures


def target_session(round: str) -> tuple[Session, Pictures]:
    """Each target beside its reference, or each twin beside its image. Raises MissingStage, LabelError."""
    fused, pictures = read_stage("fuse", round), Pictures()
    if not fused.names:
        raise LabelError(f"label: {round} has no targets: its pairs are naive.", f"Use 'dfusion label {round}'.")
    twins = (fused.folder / "twins.csv").is_file()
    pairs = fused.table("twins") if twins else read_stage("extract", round).table("pairs")
    new = pictures.add(fused, pairs.pair)
    old = pictures.add(read_stage("sample", round), opponents(pairs))
    asked = target_pairs(pairs.prompt.tolist(), new, old)
    return Session(
        labels_file(round, targets=True),
        Listed(asked, everybody=False),
        prompts_of(asked),
        f"dfusion label {round} --targets",
    ), pictures


def prompts_of(questions: list[Question]) -> dict[str, str]:
    """The prompt of each picture of a list of questions."""
    return {name: one.prompt for one in questions for name in one.pictures}
