"""How a reader deals with an input: it reads it, or refuses it by name, in a moment. Everything else is a fault."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dfusion_core.errors import DFusionError

INPUTS = int(os.environ.get("DFUSION_FUZZ", "25"))  # of each target
SECONDS = {signal.ITIMER_PROF: 2.0, signal.ITIMER_REAL: 60.0}  # of the processor; at all, for one that only waits


class TooLongError(BaseException):
    """An input took longer than it may; no `except Exception` hides it."""


@contextmanager
def limited() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooLongError

    before = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    for timer, seconds in SECONDS.items():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer in SECONDS:
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def outcome(read: Callable[[], Any], names: str) -> str:
    """ "read", "refused", or what is wrong with how it was dealt with."""
    try:
        with limited():
            read()
    except DFusionError as error:
        return "refused" if re.search(names, error.message) else f"does not name the file: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return "read"
