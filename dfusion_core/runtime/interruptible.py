"""Blocking calls of C++ libraries that signals can interrupt."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

LOOK = 0.5  # seconds between two calls of `meanwhile`


def interruptible(call: Callable[[], Result], meanwhile: Callable[[float], None]) -> Result:
    """The result of ``call``, which runs in another thread while this thread waits.

    Python handles signals in the main thread between two instructions, and not inside a C++ library. ``meanwhile`` is
    called every LOOK seconds with the seconds waited, without those for which this process was stopped; an exception
    that it raises ends the waiting. The thread cannot be stopped; after such an exception the process must be ended by
    `os._exit`.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:  # raised again in the thread that waits
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=work, daemon=True).start()
    for looks in itertools.count(1):
        if done.wait(LOOK):
            break
        meanwhile(looks * LOOK)
    if errors:
        raise errors[0]
    return results[0]
