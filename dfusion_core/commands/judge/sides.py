"""The two models that are compared: their evaluation images, of the same prompts and seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ...errors import LabelError
from ...labelling.pictures import Pictures
from ...labels.asking import Question
from ...params.rounds import INIT
from ...store import read_stage
from ...store.manifest import MANIFEST
from ...store.reading import StageData

BASE = "base"
SAME = ["split", "prompt", "sample", "seed"]


@dataclass(frozen=True)
class Comparison:
    """Pairs of images of one prompt and seed: columns split, prompt, seed, a, b (hashes); a == b if they are equal.

    template: of the prompts, from the name of the prompt file.
    """

    names: tuple[str, str]
    template: str
    pairs: pd.DataFrame
    pictures: Pictures

    @property
    def questions(self) -> list[Question]:
        """The questions: pairs of different pictures."""
        different = self.pairs[self.pairs.a != self.pairs.b]
        rows = zip(different.prompt, different.a, different.b, strict=True)
        return [Question(prompt, (a, b)) for prompt, a, b in dict.fromkeys(rows)]


def evaluated(name: str) -> StageData:
    """The evaluation of a round, of the base model (``base``), or of another run: the folder of its evaluation.

    Raises MissingStage, LabelError.
    """
    if name == BASE:
        return read_stage("evaluate", INIT)
    for folder in (Path(name), Path(name, "evaluate")):
        if (folder / MANIFEST).is_file():
            found = StageData(folder)
            if found.manifest["ingredients"]["stage"] != "evaluate":
                raise LabelError(f"judge: {folder} is no evaluation.", "Name a round, base, or runs/ROUND/evaluate.")
            return found
    if "/" in name:
        raise LabelError(f"judge: there is no evaluation in {name}.", "Name a folder as ../other/runs/r01/evaluate.")
    return read_stage("evaluate", name)


def compared(a: str, b: str, count: int | None = None) -> Comparison:
    """The images of both, side by side. count: the first N images of each prompt.

    Raises LabelError if they have different prompts or seeds, or are the same evaluation.
    """
    sides, pictures = [evaluated(name) for name in (a, b)], Pictures()
    tables = [side.table("images") for side in sides]
    if not all(set(SAME) <= {*table} for table in tables) or tables[0][SAME].to_dict() != tables[1][SAME].to_dict():
        raise LabelError(
            f"judge: the evaluations of {a} and {b} are not of the same prompts and seeds.",
            "Evaluate both with the same 'prompts' and 'evaluate' in params.yaml.",
        )
    rows = tables[0] if count is None else tables[0][tables[0]["sample"] < count]
    hashes = [pictures.add(side, rows.image) for side in sides]
    pairs = rows[["split", "prompt", "seed"]].reset_index(drop=True).assign(a=hashes[0], b=hashes[1])
    if (pairs.a == pairs.b).all():
        raise LabelError(
            f"judge: all images of {a} and {b} are equal: there is nothing to judge.",
            "Compare two rounds that were trained differently.",
        )
    made = sides[0].manifest["ingredients"]["params"].get("prompts", {})
    return Comparison((a, b), Path(str(made.get("file", "prompts"))).stem, pairs, pictures)
