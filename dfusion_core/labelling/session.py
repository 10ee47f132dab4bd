"""A session of labelling, independent of HTTP: the questions of each labeller, and storing of answers."""

from __future__ import annotations

import secrets
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..errors import LabelError
from ..labels.answers import ANSWERS, FIRST, SKIP, UNDO, Answer, append, moment, read_answers
from ..labels.asking import ORDER, PAIR, Asker, Pair, Progress, Question
from ..labels.consistency import Consistency, consistency

LOOKED_AT = 120.0  # seconds for which a shown pair is not shown to others
GUESS = 4.0  # assumed seconds per answer before the first ones
PAUSE = 60.0  # seconds of a pause
RECENT = 20  # number of answers for the median pace
LONGEST_NAME = 40


@dataclass(frozen=True)
class Shown:
    """A question shown to one labeller, with its own id."""

    id: str
    kind: str
    question: Question


@dataclass(frozen=True)
class Standing:
    """The standing of a labeller. seconds_left: at this labeller's pace."""

    progress: Progress
    mine: int
    seconds_left: float
    consistency: Consistency


class Session:
    """Questions and answers about pictures, which are identified by hash, with the answers in one file.

    Threads may ask and answer concurrently; other processes may append to the
    same file. An answer is in the file before `answer` returns.
    """

    def __init__(self, file: Path, asker: Asker, prompts: dict[str, str], title: str, orders: bool = False) -> None:
        """prompts: the prompt of each picture by its hash. orders: rows to be ordered are offered as well."""
        self.file, self.asker, self.title, self.orders = file, asker, title, orders
        self.prompts = prompts
        self._looked_at: dict[Pair, tuple[float, str]] = {}
        self._answers: list[Answer] = []
        self._read: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def next(self, labeller: str, kind: str = PAIR) -> Shown | None:
        """The next question; None if there are enough answers."""
        with self._lock:
            now = time.monotonic()
            self._looked_at = {pair: seen for pair, seen in self._looked_at.items() if now - seen[0] < LOOKED_AT}
            question = self.asker.next(labeller, self._known(), self._looked_at, kind)
            if question is None:
                return None
            self._looked_at[frozenset(question.pictures)] = (now, labeller)
            return Shown(secrets.token_hex(8), ORDER if len(question.pictures) > 2 else PAIR, question)

    def answer(self, labeller: str, id: str, pictures: Sequence[str], said: str) -> bool:
        """Write an answer to the file; returns False if this question is already answered.

        pictures: two, from left to right; or a row from best to worst, with ``said`` "first". Raises LabelError for
        an answer that does not belong to a question of this session.
        """
        prompt = self._prompt_of(pictures)
        if said not in ANSWERS or said == UNDO or (len(pictures) > 2 and said not in (FIRST, SKIP)):
            raise LabelError(f"label: {said!r} is no answer.")
        with self._lock:
            known = {one.pair for one in self._known() if one.labeller == labeller and one.answer != SKIP}
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            lines = [
                Answer(id, now, labeller, prompt, first, second, said, frozenset((first, second)) in known)
                for first, second in zip(pictures, pictures[1:], strict=False)
            ]
            self._looked_at.pop(frozenset(pictures), None)
            return append(self.file, lines)

    def undo(self, labeller: str) -> Shown | None:
        """Withdraw this labeller's last answer, and return its question; None if there is none."""
        with self._lock:
            mine = [one for one in self._known() if one.labeller == labeller and self._is_here(one)]
            if not mine:
                return None
            lines = [one for one in mine if one.id == mine[-1].id]
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            append(
                self.file, [Answer(one.id, now, labeller, one.prompt, one.first, one.second, UNDO) for one in lines[:1]]
            )
            pictures = (lines[0].first, *(one.second for one in lines))
            return Shown(
                secrets.token_hex(8), ORDER if len(pictures) > 2 else PAIR, Question(lines[0].prompt, pictures)
            )

    def standing(self, labeller: str) -> Standing:
        """Progress, pace and consistency of one labeller."""
        with self._lock:
            answers = [one for one in self._known() if self._is_here(one)]
        progress = self.asker.progress(labeller, answers)
        mine = [one for one in answers if one.labeller == labeller]
        left = max(0, progress.needed - progress.done) * pace([one.time for one in mine])
        return Standing(progress, len(mine), left, consistency(answers, labeller))

    def _known(self) -> list[Answer]:
        """The file's answers, read again if it has changed."""
        try:
            state = self.file.stat()
            look = (state.st_size, state.st_mtime_ns)
        except FileNotFoundError:
            look = (0, 0)
        if look != self._read:
            self._answers, self._read = read_answers(self.file), look
        return self._answers

    def _is_here(self, one: Answer) -> bool:
        return one.first in self.prompts and one.second in self.prompts

    def _prompt_of(self, pictures: Sequence[str]) -> str:
        """The common prompt of these distinct pictures. Raises LabelError."""
        prompts = {self.prompts.get(name) for name in pictures}
        if len(pictures) < 2 or len(set(pictures)) != len(pictures) or len(prompts) != 1 or None in prompts:
            raise LabelError("label: these are no pictures of one question.")
        return str(prompts.pop())


def pace(times: Sequence[str]) -> float:
    """Median seconds between the last answers, without pauses."""
    moments = [found for one in times[-RECENT - 1 :] if (found := moment(one)) is not None]
    gaps = [(after - before).total_seconds() for before, after in zip(moments, moments[1:], strict=False)]
    working = [gap for gap in gaps if 0 < gap < PAUSE]
    return statistics.median(working) if working else GUESS


def clean_name(name: object) -> str:
    """A labeller's name in one short line of printable characters. Raises LabelError for anything else."""
    text = " ".join(name.split()) if isinstance(name, str) else ""
    if not text or len(text) > LONGEST_NAME or not text.isprintable():
        raise LabelError(f"label: a labeller's name has 1 to {LONGEST_NAME} characters.")
    return text


PictureOf = Callable[[str], bytes | None]  # the PNG file of a picture by its hash; None for an unknown one
