"""The file of answers: CSV with one line per answer; lines are only appended.

Columns: id (of the question), time (UTC), labeller, prompt, first, second (names of the two pictures), answer (first,
second, tie, skip; undo withdraws all lines of the same id), repeat (1: this labeller has answered this pair before).
An ordered row of pictures has a line for each two neighbours, all with one id.

A line is synced before `append` returns. Several processes may append: the file is locked. A line without newline
was not acknowledged (its writer was killed): readers skip it, and the next append removes it.
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from ..errors import StoreError, short
from ..store import atomic

FIRST, SECOND, TIE, SKIP, UNDO = "first", "second", "tie", "skip", "undo"
ANSWERS = (FIRST, SECOND, TIE, SKIP, UNDO)
ENCODING = "utf-8"


@dataclass(frozen=True)
class Answer:
    """One line of the file."""

    id: str
    time: str
    labeller: str
    prompt: str
    first: str
    second: str
    answer: str
    repeat: bool = False

    @property
    def pair(self) -> frozenset[str]:
        """The two pictures, whatever their sides."""
        return frozenset((self.first, self.second))

    @property
    def share(self) -> float:
        """Score of the first picture: 1 for a win, 0.5 for a tie, 0 for a loss."""
        return {FIRST: 1.0, TIE: 0.5, SECOND: 0.0}[self.answer]


COLUMNS = tuple(field.name for field in fields(Answer))


def read_answers(path: Path) -> list[Answer]:
    """The answers of a file without withdrawn ones, in order; none if there is no file.

    Raises StoreError that names the file, the line and what is wrong with it.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    return effective(_parsed(path, text[: text.rfind(b"\n") + 1]))


def effective(lines: Sequence[Answer]) -> list[Answer]:
    """The lines without those that a later `undo` withdraws."""
    found: dict[str, list[Answer]] = {}
    for line in lines:
        if line.answer == UNDO:
            found.pop(line.id, None)
        else:
            found.setdefault(line.id, []).append(line)
    return [line for group in found.values() for line in group]


def moment(text: str) -> datetime | None:
    """The time in a line, in UTC where it names no zone; None where it is none."""
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def append(path: Path, lines: Sequence[Answer]) -> bool:
    """Append the lines of one question, all or none, synced; returns False if they exist already.

    A question that was sent twice counts once. An `undo` of missing or withdrawn lines has no effect.
    """
    with _locked(path) as file:
        text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        if not _is_news(_parsed(path, whole), lines[0]):
            return False
        with atomic.named(path):
            file.truncate(len(whole))  # a line that was not acknowledged
            file.seek(0, os.SEEK_END)
            file.write((b"" if whole else _line(COLUMNS)) + b"".join(_line(_cells(line)) for line in lines))
            file.flush()
            os.fsync(file.fileno())
    return True


@contextmanager
def _locked(path: Path) -> Iterator[io.BufferedRandom]:
    """The file, created if necessary, locked for this process."""
    atomic.make_folder(path.parent)
    new = not path.exists()
    with atomic.named(path), open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if new:
            atomic.sync(path.parent)
        yield file


def _is_news(known: Sequence[Answer], line: Answer) -> bool:
    """Whether a question has no answer, also none that was withdrawn; for an undo, whether it has one."""
    return (
        line.id in {one.id for one in effective(known)}
        if line.answer == UNDO
        else line.id not in {one.id for one in known}
    )


def _cells(line: Answer) -> tuple[str, ...]:
    """The cells of a line, without newlines in the prompt: a killed writer could leave a part that looks complete."""
    return tuple(str(int(cell)) if isinstance(cell, bool) else " ".join(str(cell).split()) for cell in astuple(line))


def _line(cells: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode(ENCODING)


def _parsed(path: Path, text: bytes) -> list[Answer]:
    try:
        rows = list(csv.reader(io.StringIO(text.decode(ENCODING)), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _wrong(path, f"is no file of answers: {error}") from None
    if rows and tuple(rows[0]) != COLUMNS:
        raise _wrong(path, f"is no file of answers: its first line is not {','.join(COLUMNS)}")
    return [_answer(path, number, row) for number, row in enumerate(rows[1:], 2)]


def _answer(path: Path, number: int, row: list[str]) -> Answer:
    """One line. Raises StoreError."""
    if (
        len(row) != len(COLUMNS)
        or row[-2] not in ANSWERS
        or row[-1] not in ("0", "1")
        or not all(row[COLUMNS.index(name)] for name in ("id", "first", "second"))
    ):
        raise _wrong(path, f"line {number} is no answer: {short(','.join(row))!r}")
    id, time, labeller, prompt, first, second, answer, repeat = row
    return Answer(id, time, labeller, prompt, first, second, answer, repeat == "1")


def _wrong(path: Path, what: str) -> StoreError:
    return StoreError(f"labels: {path} {what}.", f"Correct it by hand, or bring it back with 'git checkout {path}'.")
