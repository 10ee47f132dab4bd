"""Standard output and error whose failures do not end a run: what cannot be written is dropped."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import Any

NO_READER = (errno.EPIPE, errno.EIO)  # a pipe whose reader has ended; a terminal that was closed


class LastingFile(io.FileIO):
    """A file whose writes do not raise. Errors other than a closed reader are reported once on stderr."""

    _told = False

    def write(self, data: Any) -> int:
        """Write, or drop what cannot be written; returns the number of handled bytes."""
        try:
            while (written := super().write(data)) is None:  # a pipe that does not block, and is full
                select.select([], [self], [], 1.0)
            return written
        except OSError as error:
            if error.errno not in NO_READER and not self._told:
                self._told = True
                with suppress(OSError):
                    os.write(2, f"note: output is lost, because it cannot be written: {error.strerror}.\n".encode())
            return len(data)


def outlive_readers() -> None:
    """Make prints safe: sys.stdout and sys.stderr drop what cannot be written or encoded, instead of raising.

    Streams that are replaced already, as in tests, are not changed.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed from the start; devnull takes its number before another file does
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the process ends
        elif stream is getattr(sys, f"__{name}__"):
            with suppress(OSError):
                stream.flush()
            file = LastingFile(stream.fileno(), "w", closefd=False)
            setattr(
                sys,
                name,
                io.TextIOWrapper(
                    io.BufferedWriter(file),
                    encoding=stream.encoding,
                    errors="backslashreplace",
                    line_buffering=stream.line_buffering,
                ),
            )
