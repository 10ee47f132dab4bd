"""Errors that a user can fix. Every message has the form: where, what, why, next command.

`message` is where, what and why; `hint` is what to do next. They are printed without a traceback. Programming mistakes
are `assert` or plain exceptions, with a traceback.
"""

import errno
import os
import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

BAD_NUMBER_HINT = "If model.dtype is fp16, try fp32; a learning rate that is too high does this as well."
LONGEST = 80  # length of a quotation in a message
MOST_LISTED = 30  # mistakes in one message

FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
IN_THE_WAY = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG)
FILES = (errno.EMFILE, errno.ENFILE)
GONE = (errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
KEPT = "What is finished is kept, and the same command continues."
MOVE = "Free space, or move the scratch folder (.dfusion) to another disk and set DFUSION_SCRATCH to it."


class DFusionError(Exception):
    """An error that the user can fix. The command line prints it and exits with 1."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class ParamsError(DFusionError):
    """params.yaml is missing, unreadable or not valid."""


class PromptsError(DFusionError):
    """A prompt file is missing, unreadable or not valid."""


class ModelError(DFusionError):
    """The diffusion model or the adapter cannot be loaded, or is not supported."""


class RewardError(DFusionError):
    """The reward model cannot be loaded, or does not fit the images."""


class LabelError(DFusionError):
    """People's answers are missing, or a session of labelling cannot start."""


class MaskError(DFusionError):
    """A mask cannot be made, or is always empty."""


class RatioError(DFusionError):
    """The log-probs of this process are not those that the trajectories were made with."""


class StoreError(DFusionError):
    """An artefact on disk is locked, damaged or incomplete, or does not have a requested name."""


class MissingStage(StoreError):
    """A needed output of a stage does not exist."""


class BadNumber(StoreError):
    """A NaN or an infinity was about to be stored."""


class NotFinite(ArithmeticError):
    """A NaN or an infinity in row ``row`` of a batch; ``t`` is the paper's timestep, or None.

    The stage, which has the prompts and seeds of its rows, converts it to BadNumber.
    """

    def __init__(self, what: str, row: int, t: int | None = None) -> None:
        super().__init__(f"{what} of row {row} is NaN or infinite{'' if t is None else f' at t = {t}'}")
        self.what, self.row, self.t = what, row, t

    def named(self, row_name: str) -> BadNumber:
        """The error for users. row_name: prompt and seed of the row."""
        at = "" if self.t is None else f" at t = {self.t}"
        return BadNumber(f"{self.what} of {row_name} is NaN or infinite{at}.", BAD_NUMBER_HINT)


class LaunchError(DFusionError):
    """A stage's launcher cannot be started."""


class ProjectError(DFusionError):
    """There is no project in this folder, or none can be made."""


class CompareError(DFusionError):
    """What is to be compared does not exist, or is not comparable: other seeds, another reward."""


class ExportError(DFusionError):
    """An export would replace files, cannot be written, or differs from the adapter."""


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """`Did you mean 'x'?` for the known name closest to `wrong`, or an empty string if none is close."""
    if len(wrong) > LONGEST:  # comparing takes time that grows with the square of it
        return ""
    close = get_close_matches(wrong, [str(name) for name in known], n=1)
    return f"Did you mean '{close[0]}'?" if close else ""


def short(text: str, limit: int = LONGEST) -> str:
    """`text`, cut to the length of a quotation in a message."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def listed(mistakes: Sequence[str], count: int = 0) -> str:
    """Mistakes for a message, one per line; of many (`count`, if not all are given) the first ones."""
    left = max(count, len(mistakes)) - MOST_LISTED
    more = [f"and {left} more"] if left > 0 else []
    return "\n".join(f"  {line}" for line in [*mistakes[:MOST_LISTED], *more])


def printable(text: str) -> str:
    """`text` with control characters escaped, except newline and tab."""
    return "".join(c if unicodedata.category(c) not in ("Cc", "Cs") or c in "\n\t" else repr(c)[1:-1] for c in text)


def one_printable_line(text: str) -> str:
    """`printable`, with newlines and tabs escaped as well, for names."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def one_line(error: BaseException, limit: int = 300) -> str:
    """The message of another library's error in one line, without its further advice."""
    return " ".join(str(error).split()).rstrip(".")[:limit]


def explain(error: OSError) -> StoreError | None:
    """An OSError of a disk as an error that the user can fix; None for other errors."""
    what = os.strerror(error.errno).lower() if error.errno else ""
    path = error.filename2 or error.filename or "a file"  # of a rename: the destination
    if error.errno in FULL:
        return StoreError(f"store: {path} cannot be written: {what}.", f"{MOVE} {KEPT}")
    if error.errno in CLOSED:
        return StoreError(
            f"store: {path} cannot be opened: {what}.", f"Give this user the right to write there. {KEPT}"
        )
    if error.errno == errno.EFBIG:
        return StoreError(
            f"store: {path} cannot be written: {what}.",
            f"Raise the limit that 'ulimit -f' shows, or use a file system for larger files. {KEPT}",
        )
    if error.errno in NO_LOCKS:
        return StoreError(
            f"store: {path} cannot be locked: {what}.", f"Set DFUSION_SCRATCH to a folder on a local disk. {KEPT}"
        )
    if error.errno == errno.EXDEV:
        return StoreError(
            f"store: {path} cannot be put in its place: {what}.",
            f"Give runs and the scratch folder (.dfusion) each a whole file system or none. {KEPT}",
        )
    if error.errno in IN_THE_WAY:
        return StoreError(
            f"store: {path} cannot be used: {what}.", f"Move what stands there or above it out of the way. {KEPT}"
        )
    if error.errno in FILES:
        return StoreError(f"store: {path} cannot be opened: {what}.", f"Raise the limit that 'ulimit -n' shows. {KEPT}")
    if error.errno in GONE:
        return StoreError(f"store: {path} cannot be reached: {what}.", f"Mount its file system again. {KEPT}")
    if error.errno == errno.EIO:
        return StoreError(f"store: {path} cannot be read or written: {what}.", f"Its disk may be failing. {KEPT}")
    return None
