"""Progress of a stage: a bar on a terminal, otherwise one line per minute for the log file."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

Part = TypeVar("Part")


def track(
    parts: Iterable[Part],
    size: Callable[[Part], int],
    total: int,
    done: int,
    label: str,
    stream: TextIO | None = None,
) -> Iterator[Part]:
    """Yield `parts` and show progress: `size(part)` rows are finished when the next part is asked for.

    `done` of the `total` rows were finished by an earlier run; they count as done, but not for the rate.
    """
    stream = stream or sys.stderr
    return _bar(parts, size, total, done, label) if stream.isatty() else _lines(parts, size, total, done, label, stream)


def _bar(parts: Iterable[Part], size: Callable[[Part], int], total: int, done: int, label: str) -> Iterator[Part]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total, completed=done)
        for part in parts:
            yield part
            progress.advance(task, size(part))


def _lines(
    parts: Iterable[Part],
    size: Callable[[Part], int],
    total: int,
    done: int,
    label: str,
    stream: TextIO,
    clock: Callable[[], float] = time.monotonic,
    every: float = 60.0,
) -> Iterator[Part]:
    start = last = clock()
    here = 0
    for part in parts:
        yield part
        here += size(part)
        if clock() - last >= every:
            last = clock()
            print(status_line(label, done + here, total, here / (last - start)), file=stream, flush=True)


def status_line(label: str, done: int, total: int, rate: float) -> str:
    """`sample r00: 32 of 96, 0.53 a second, 2 min left`; `rate` is in rows per second."""
    speed = f"{rate:.2f} a second" if rate >= 0.1 else f"{rate * 60:.2f} a minute"
    return f"{label}: {done} of {total}, {speed}, {duration((total - done) / rate)} left"


def duration(seconds: float) -> str:
    """A readable duration: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
