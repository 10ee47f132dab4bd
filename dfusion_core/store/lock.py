"""One writer for each stage of each round. The kernel frees the lock of a process that died."""

import fcntl
import os
import socket
from pathlib import Path

from ..errors import StoreError
from . import atomic


class Lock:
    """An exclusive lock on a file that records its holder."""

    def __init__(self, path: Path, what: str, wait: bool = False) -> None:
        """Take the lock at `path`. If another process holds it, wait, or raise StoreError naming the process."""
        atomic.make_folder(path.parent)
        self._file = path.open("a+b", buffering=0)
        try:
            with atomic.named(path):
                self._take(what, wait)
            with atomic.named(path):
                self._file.truncate(0)
                self._file.write(f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
        except BaseException:
            self.release()
            raise

    def _take(self, what: str, wait: bool) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read(1000).decode(errors="replace").strip() or "another process"
            if not wait:
                raise StoreError(f"store: {what} is being run by {holder}.", "Wait for it, or stop it first.") from None
            print(f"{what}: {holder} makes the same; waiting for it.", flush=True)
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def release(self) -> None:
        """Release the lock. The file stays: deleting it would let two processes lock two files."""
        self._file.close()
