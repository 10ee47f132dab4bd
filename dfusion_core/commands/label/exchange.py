"""Import and export of answers as tables of other programs.

pairs     image_0, image_1 (paths), prompt, answer (first, second, tie), labeller, time
pickapic  caption, jpg_0, jpg_1 (paths), label_0, label_1 (1 and 0, or 0.5 each for a tie): the columns of Pick-a-Pic
          and of Diffusion-DPO

Records of Argilla and tasks of Label Studio are imported too (``foreign.py``). Picture files are identified by their
pixels, so that only pictures of this round are accepted. Exported pictures are PNG files in a folder beside
the table.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import LabelError, short
from ...labelling.session import LONGEST_NAME
from ...labels.answers import FIRST, SECOND, SKIP, TIE, Answer, append, moment, read_answers
from ...labels.content import content_hash
from ...store.atomic import write_bytes, write_text
from .foreign import plain_rows
from .tables import read_rows

if TYPE_CHECKING:
    from ...labelling.pictures import Pictures
    from ...labelling.session import Session

PAIRS, PICKAPIC = "pairs", "pickapic"
LABELS = {FIRST: (1, 0), SECOND: (0, 1), TIE: (0.5, 0.5)}
Row = Mapping[str, Any]


def export_answers(out: Path, session: Session, pictures: Pictures, columns: str) -> str:
    """Write the answers of a session with their pictures; returns a message. Raises LabelError."""
    if columns not in (PAIRS, PICKAPIC):
        raise LabelError(f"--columns: '{columns}' is not known.", f"Use {PAIRS} or {PICKAPIC}.")
    known = session.prompts
    answers = [
        one for one in read_answers(session.file) if one.answer != SKIP and one.first in known and one.second in known
    ]
    folder = out.with_suffix("").with_name(f"{out.stem}-pictures")
    for name in dict.fromkeys(name for one in answers for name in (one.first, one.second)):
        data = pictures.png(name)
        assert data is not None  # it is one of the session's
        write_bytes(folder / f"{name}.png", data)
    rows = [_as_row(one, known[one.first], folder.name, columns) for one in answers]
    if out.suffix == ".jsonl":
        write_text(out, "".join(json.dumps(row) + "\n" for row in rows))
    elif out.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(out, text.getvalue())
    else:
        raise LabelError(f"--export: '{out}' is of no kind that can be written.", "Name a .csv or a .jsonl file.")
    return f"{out}: {len(rows)} answers; their pictures are in {folder}."


def import_answers(file: Path, session: Session, pictures: Pictures) -> str:
    """Import the answers about pictures of this session; returns a message. Raises LabelError for an invalid table, of
    which nothing is imported.

    The same answer counts once, whether it comes twice in a table or again in a later table of the same program.
    """
    answers, foreign = _answers(file, session)
    if foreign and not answers:
        raise LabelError(
            f"--import: none of the {foreign} pairs in {file} is of two images of one prompt of this round.",
            "Images from elsewhere have no denoising trajectories and cannot be trained on; 'pairs: inversion' in "
            "params.yaml guesses trajectories of images that this pipeline made.",
        )
    taken = sum(append(session.file, [one]) for one in answers)
    return (
        f"{session.file}: {taken} answers taken from {file}, {len(answers) - taken} were there already, {foreign} are "
        "about other pictures and were left out."
    )


def _answers(file: Path, session: Session) -> tuple[list[Answer], int]:
    """The answers of a table about pictures of a session, and how many are about others. Raises LabelError."""
    found: list[Answer] = []
    foreign, seen = 0, Counter[str]()
    for number, row in _answer_rows(file):
        first, second, said = _as_answer(row, file, number)
        names = [_hash(file.parent / path, file, number) for path in (first, second)]
        prompts = {session.prompts.get(name) for name in names}
        if None in prompts or len(prompts) != 1 or names[0] == names[1]:
            foreign += 1
            continue
        labeller, time = _labeller(row, file), _time(row, file, number)
        about = f"{labeller}|{time}|{names}|{said}"
        seen[about] += 1  # without a time two answers may look alike
        id = hashlib.sha256(f"{about}|{seen[about] if time is None else ''}".encode()).hexdigest()[:16]
        when = time or datetime.now(UTC).isoformat(timespec="milliseconds")
        found.append(Answer(id, when, labeller, str(prompts.pop()), names[0], names[1], said))
    return found, foreign


def _as_row(one: Answer, prompt: str, folder: str, columns: str) -> dict[str, Any]:
    paths = [f"{folder}/{name}.png" for name in (one.first, one.second)]
    if columns == PICKAPIC:
        labels = LABELS[one.answer]
        return {
            "caption": prompt,
            "jpg_0": paths[0],
            "jpg_1": paths[1],
            "label_0": labels[0],
            "label_1": labels[1],
            "labeller": one.labeller,
            "time": one.time,
        }
    return {
        "prompt": prompt,
        "image_0": paths[0],
        "image_1": paths[1],
        "answer": one.answer,
        "labeller": one.labeller,
        "time": one.time,
    }


def _as_answer(row: Row, file: Path, number: int) -> tuple[str, str, str]:
    """The two paths and the answer of a row, in either kind of columns. Raises LabelError."""
    first, second = (row.get(f"image_{side}") or row.get(f"jpg_{side}") for side in (0, 1))
    if not isinstance(first, str) or not isinstance(second, str):
        raise _refused(file, number, "has no two image paths")
    given = [row["answer"]] if row.get("answer") not in (None, "") else []
    if row.get("label_0") not in (None, ""):
        labels = (row.get("label_0"), row.get("label_1"))
        given.append(_said(*labels))
        if given[-1] is None:
            raise _refused(file, number, f"has the labels {short(repr(labels))}, which are not 1 and 0, or 0.5 each")
    if not given:
        raise _refused(file, number, "has no answer")
    if not isinstance(given[0], str) or given[0] not in LABELS:
        raise _refused(file, number, f"has the answer {short(repr(given[0]))}, and not first, second or tie")
    if given[0] != given[-1]:
        raise _refused(file, number, f"has the answer {given[0]}, and labels that say {given[-1]}")
    return first, second, given[0]


def _refused(file: Path, number: int, why: str) -> LabelError:
    return LabelError(
        f"--import: row {number} of {file} {why}.",
        "Columns are image_0, image_1, answer; or jpg_0, jpg_1, label_0, label_1 (docs/labels.md).",
    )


def _said(first: Any, second: Any) -> str | None:
    """The answer of two labels, which are shares of one preference; None for other numbers."""
    try:
        share = float(first)
        other = 1 - share if second in (None, "") else float(second)
    except (TypeError, ValueError, OverflowError):
        return None
    if not (0 <= share <= 1 and math.isclose(share + other, 1, abs_tol=1e-6)):
        return None
    return FIRST if share > other else SECOND if share < other else TIE


def _labeller(row: Row, file: Path) -> str:
    """A name in one short line; without one that of the file."""
    text = " ".join(str(row.get("labeller") or row.get("annotator") or "").split())
    name = "".join(c for c in text if c.isprintable()) or file.stem
    if len(name) <= LONGEST_NAME:
        return name
    ending = hashlib.sha256(name.encode()).hexdigest()[:8]  # two long names stay two
    return f"{name[: LONGEST_NAME - len(ending) - 1]}-{ending}"


def _time(row: Row, file: Path, number: int) -> str | None:
    """When an answer was given, in UTC; None where the row does not say. Raises LabelError."""
    said = row.get("time")
    if said in (None, ""):
        return None
    found = moment(str(said))
    if found is None:
        raise _refused(file, number, f"has the time {short(repr(said))}, which is not like 2026-01-31T12:00:00")
    return found.isoformat(timespec="milliseconds")


def _hash(path: Path, file: Path, number: int) -> str:
    """The hash of a picture file. Raises LabelError for other files."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError
        with Image.open(path) as opened:
            return content_hash(np.asarray(opened.convert("RGB")))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        raise LabelError(
            f"--import: row {number} of {file}: {path} cannot be read as a picture: {type(error).__name__}.",
            "Paths begin at the folder of the table.",
        ) from None


def _answer_rows(file: Path) -> Iterator[tuple[int, Row]]:
    """The answers of a table, with their row numbers. Raises LabelError.

    Rows of Pick-a-Pic whose `has_label` is false were never answered.
    """
    for number, row in enumerate(read_rows(file), 1):
        if str(row.get("has_label", True)).strip().lower() not in ("false", "0"):
            for one in plain_rows(row):
                yield number, one
