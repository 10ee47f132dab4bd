"""Running a session with people in a browser, or with a client."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .client import Prefers, answer_all
from .server import LabelServer
from .session import PictureOf, Session
from .token import kept_token


@contextmanager
def served(session: Session, picture: PictureOf, host: str = "127.0.0.1", port: int = 0) -> Iterator[LabelServer]:
    """The server of a session, running in the background. Raises LabelError if it cannot listen."""
    server = LabelServer(session, picture, kept_token(), host, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def serve_people(session: Session, picture: PictureOf, host: str, port: int) -> None:
    """Print the address and serve until Ctrl-C."""
    with served(session, picture, host, port) as server:
        print(
            f"{session.title}: open this address in a browser, and end with Ctrl-C:\n  {server.address}\n"
            f"Answers go to {session.file}, each at once. From another machine: "
            f"ssh -L {server.server_address[1]}:127.0.0.1:{server.server_address[1]} THIS-MACHINE",
            flush=True,
        )
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("\nEnded; every answer is stored.")


def serve_client(session: Session, picture: PictureOf, labeller: str, prefers: Prefers) -> int:
    """Let a program answer over HTTP; returns the number of answers."""
    with served(session, picture) as server:
        return answer_all(server.address, labeller, prefers)
