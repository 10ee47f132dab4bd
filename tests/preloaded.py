"""`python -m MODULE` from a process that has imported torch and diffusers already: a second instead of six.

Most tests of the pipeline start dozens of stages through DVC, and most of their time is imports. `folder()` starts a
server, which imports the libraries (none of ours) once, and returns a folder with a program called `python` for PATH.
That program hands its arguments, folder, environment and streams to the server, which forks; the fork runs the module
as `python -m` does, with the current folder first on its path, and ends as a process of its own. Signals are passed on,
and a program that is killed takes the fork with it. Whatever else Python is asked, and where the environment has
another setting that libraries read when they are imported, the program becomes the real Python.

Tests in which the process is the point (another user, no network, `torchrun`, memory, import time) take the real one.
"""

from __future__ import annotations

import array
import atexit
import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

READ_AT_IMPORT = (
    "HF_",
    "OMP_",
    "MKL_",
    "CUDA_",
    "TORCH",
    "PYTHON",
    "LD_",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "DIFFUSERS",
)
PROGRAM = """#!{python} -IS
import sys
sys.path.insert(0, {here!r})
from preloaded import ask
ask({address!r}, {python!r})
"""


@cache
def folder() -> Path:
    """The folder with the program; the server ends with this process."""
    where = Path(tempfile.mkdtemp(prefix="preloaded-"))
    where.chmod(0o755)
    address, program = str(where / "socket"), where / "bin/python"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(python=sys.executable, here=str(Path(__file__).parent), address=address))
    program.chmod(0o755)
    from clones import environment

    command = [sys.executable, __file__, address]
    server = subprocess.Popen(command, env=environment(where, real=True), cwd=where, stdout=subprocess.PIPE)
    atexit.register(shutil.rmtree, where, True)
    atexit.register(server.kill)
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"
    return program.parent


def decisive(environment: dict[str, str]) -> dict[str, str]:
    """What libraries read when they are imported."""
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_IMPORT)}


# --- the program: next to no imports, it starts hundreds of times ---


def ask(address: str, python: str) -> None:
    """Have the server run this process's command, pass signals on, and end with its exit code."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        if sys.argv[1:2] != ["-m"]:
            raise OSError("only modules")
        connection.connect(address)
    except OSError:
        os.execv(python, [python, *sys.argv[1:]])
    job = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()
    streams = array.array("i", [0, 1, 2])
    connection.sendmsg([len(job).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams.tobytes())])
    connection.sendall(job)
    child = int.from_bytes(connection.recv(4), "big")
    if not child:  # other settings
        os.execv(python, [python, *sys.argv[1:]])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: os.kill(child, number))
    code = int.from_bytes(connection.recv(4), "big", signed=True)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


# --- the server ---


def import_libraries() -> None:
    """What stages need; diffusers and transformers import a class when it is asked for."""
    import open_clip  # noqa: F401
    import pandas  # noqa: F401
    import peft.utils  # noqa: F401
    import rich.progress  # noqa: F401
    import ruamel.yaml  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch._dynamo  # noqa: F401
    import typer  # noqa: F401
    import zarr  # noqa: F401
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel  # noqa: F401
    from matplotlib.figure import Figure  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401


def serve(address: str) -> None:
    """Import the libraries, then fork for every program that asks. Returns in a fork, ready to run its module."""
    settings = decisive(dict(os.environ))
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # as `runtime.entry` does
    import_libraries()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those between
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        os.chmod(address, 0o666)
        listening.listen(64)
        print("ready", flush=True)
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                return attend(connection, settings)
            connection.close()


def attend(connection: socket.socket, settings: dict[str, str]) -> None:
    """Fork the module's process, wait for it or for the end of who asked, and say how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    streams = array.array("i")
    head, extra, *_ = connection.recvmsg(8, socket.CMSG_SPACE(3 * streams.itemsize))
    streams.frombytes(extra[0][2])
    size, job = int.from_bytes(head, "big"), b""
    while len(job) < size:
        job += connection.recv(size - len(job))
    arguments, where, environment = json.loads(job)
    if decisive(environment) != settings:
        connection.sendall(bytes(4))
        os._exit(0)
    child = os.fork()
    if child == 0:
        connection.close()
        return become(arguments, where, environment, list(streams))
    for stream in streams:
        os.close(stream)
    connection.sendall(child.to_bytes(4, "big"))
    ended = os.pidfd_open(child)
    if connection.fileno() in select.select([connection.fileno(), ended], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        connection.sendall(code.to_bytes(4, "big", signed=True))
    finally:
        os._exit(0)


def become(arguments: list[str], where: str, environment: dict[str, str], streams: list[int]) -> None:
    """Streams, folder, environment, arguments and path of the process that asked."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(where)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    sys.path[0] = where
    gc.enable()


if __name__ == "__main__":
    serve(sys.argv[1])
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
