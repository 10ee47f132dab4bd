"""One writer for each stage of each round. The kernel frees the lock of a process that died."""

import fcntl
import os
import socket
from pathlib import Path

from ..errors import StoreError


class Lock:
    """An exclusive lock on a file that says who holds it."""

    def __init__(self, path: Path, what: str, wait: bool = False) -> None:
        """Take the lock at `path`. Where another process has it: wait for it, or raise StoreError naming it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            if not wait:
                self._file.close()
                raise StoreError(
                    f"store: {what} is being run by {holder}.", "Wait for it, or stop it first."
                ) from None
            print(f"{what}: {holder} makes the same; waiting for it.", flush=True)
            fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.truncate(0)
        self._file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def release(self) -> None:
        """Give the lock back. The file stays: deleting it would let two processes lock two files."""
        self._file.close()
