"""Blocking calls of C++ libraries that signals can end."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

LOOK = 0.5  # seconds between two calls of `meanwhile`


def interruptible(call: Callable[[], Result], meanwhile: Callable[[float], None]) -> Result:
    """The result of ``call``, which runs in a thread of its own, while this thread waits for it.

    Python handles signals in the main thread between two instructions, so a main thread inside a C++ library is deaf to
    them; here it is not. ``meanwhile`` is called every LOOK seconds with the seconds waited, without those for which
    this process itself was stopped; what it raises ends the waiting. The thread cannot be stopped: whoever gives up on
    it has to end the process by `os._exit`.
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
