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
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import LabelError
from ...labels.answers import FIRST, SECOND, SKIP, TIE, Answer, append, read_answers
from ...labels.content import content_hash
from ...store.atomic import write_bytes, write_text
from .foreign import plain_rows

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
    """Import the answers about pictures of this session; returns a message. Raises LabelError for an invalid table.

    A table that is imported twice counts once.
    """
    taken = known = foreign = 0
    for number, row in _answer_rows(file):
        first, second, said = _as_answer(row, file, number)
        names = [_hash(file.parent / path, file, number) for path in (first, second)]
        prompts = {session.prompts.get(name) for name in names}
        if None in prompts or len(prompts) != 1 or names[0] == names[1]:
            foreign += 1
            continue
        labeller = " ".join(str(row.get("labeller") or row.get("annotator") or file.stem).split())[:40]
        time = str(row.get("time") or datetime.now(UTC).isoformat(timespec="milliseconds"))
        id = hashlib.sha256(f"{labeller}|{row.get('time')}|{number}|{names}|{said}".encode()).hexdigest()[:16]
        stored = append(session.file, [Answer(id, time, labeller, str(prompts.pop()), names[0], names[1], said)])
        taken, known = taken + stored, known + (not stored)
    if foreign and not taken + known:
        raise LabelError(
            f"--import: none of the {foreign} pairs in {file} is of two images of one prompt of this round.",
            "Images from elsewhere have no denoising trajectories and cannot be trained on; 'pairs: inversion' in "
            "params.yaml guesses trajectories of images that this pipeline made.",
        )
    return (
        f"{session.file}: {taken} answers taken from {file}, {known} were there already, {foreign} are about other "
        "pictures and were left out."
    )


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
    said = row.get("answer")
    if said is None and row.get("label_0") is not None:
        said = _said(row.get("label_0"), row.get("label_1"))
    if not isinstance(first, str) or not isinstance(second, str) or said not in LABELS:
        raise LabelError(
            f"--import: row {number} of {file} has no two image paths and an answer.",
            "Columns are image_0, image_1, answer; or jpg_0, jpg_1, label_0, label_1 (docs/labels.md).",
        )
    return first, second, str(said)


def _said(first: Any, second: Any) -> str | None:
    try:
        lead = float(first) - float(1 - float(first) if second in (None, "") else second)
    except (TypeError, ValueError):
        return None
    return FIRST if lead > 0 else SECOND if lead < 0 else TIE if lead == 0 else None


def _hash(path: Path, file: Path, number: int) -> str:
    """The hash of a picture file. Raises LabelError for other files."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            return content_hash(np.asarray(opened.convert("RGB")))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        raise LabelError(
            f"--import: row {number} of {file}: {path} cannot be read as a picture: {type(error).__name__}.",
            "Paths begin at the folder of the table.",
        ) from None


def _answer_rows(file: Path) -> Iterator[tuple[int, Row]]:
    """The answers of a table, with their row numbers. Raises LabelError."""
    for number, row in enumerate(_rows(file), 1):
        for one in plain_rows(row):
            yield number, one


def _rows(file: Path) -> Sequence[Row]:
    """The rows of a table. Raises LabelError."""
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".csv":
            return list(csv.DictReader(io.StringIO(text)))
        found = json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines() if line]
    except (OSError, ValueError, csv.Error) as error:
        raise LabelError(f"--import: {file} cannot be read: {error}.", "Name a .csv, .jsonl or .json file.") from None
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise LabelError(f"--import: {file} is no list of objects.", "See docs/labels.md for its columns.")
    return found
