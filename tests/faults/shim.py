"""The other end of shim.c: run a function in a child process and decide about everything that it does to a folder."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("shim.c")
GO, HALF = "go", "half"
MAKES = ("open anew", "open or make", "mkdir", "link", "symlink")  # a name that may not have been there
WRITES = ("write", "half", "copy")


class Step(NamedTuple):
    """One operation: on `path`, relative to the watched folder; `other` is where a rename ends or a link begins.

    `adds` says that it adds the name `path` to a folder: it is not there yet, and its folder is.
    """

    operation: str
    bytes: int
    path: str
    other: str
    adds: bool


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code (minus a signal's number), what it wrote to stdout and stderr."""

    code: int
    said: str


Decide = Callable[[Step], str | signal.Signals]  # an answer of shim.c, or a signal that comes at this very moment


def build(folder: Path) -> Path | None:
    """Compile the shim; None where there is no C compiler."""
    compiler, library = shutil.which("cc") or shutil.which("gcc"), folder / "libshim.so"
    if compiler is None:
        return None
    subprocess.run([compiler, "-O1", "-fPIC", "-shared", "-o", library, SOURCE, "-ldl", "-lpthread"], check=True)
    return library


def child(function: Callable[[], None], decide: Decide | None = None) -> Ended:
    """Call `function` in a fork of this process, in the current folder, which is watched if `decide` is given.

    This process must have been started with LD_PRELOAD naming the shim, and must not have threads.
    """
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        pid = os.fork()
        if not pid:
            ours.close()
            _in_child(function, theirs.fileno() if decide else None, output.fileno())
        theirs.close()
        if decide:
            _answer(ours, decide, pid)
        ours.close()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        output.seek(0)
        return Ended(code, output.read())


def _in_child(function: Callable[[], None], control: int | None, output: int) -> None:
    code = 70
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        if control is not None:
            ctypes.CDLL(None).shim_watch(control, os.fsencode(os.getcwd()))
        function()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _answer(control: socket.socket, decide: Decide, pid: int) -> None:
    with suppress(ConnectionError):  # it ended without reading the last answer
        for step in _steps(control):
            answer = decide(step)
            if isinstance(answer, signal.Signals):
                os.kill(pid, answer)
                answer = GO
            control.sendall(f"{answer}\n".encode())


def _steps(control: socket.socket) -> Iterator[Step]:
    here = Path.cwd()
    with control.makefile(errors="surrogateescape") as lines:
        for line in lines:
            operation, size, *names = line.rstrip("\n").split("\t")
            path, other = (_relative(name, here) for name in names)
            adds = operation in MAKES and not os.path.lexists(path) and os.path.isdir(os.path.dirname(path) or ".")
            yield Step(operation, int(size), path, other, adds)


def _relative(name: str, folder: Path) -> str:
    return os.path.relpath(name, folder) if name.startswith(f"{folder}/") else name
