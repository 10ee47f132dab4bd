"""The local server: the page, its pictures, and three requests. Everything else is refused.

    GET  /                 the page                         POST /next    {labeller, kind}
    GET  /picture/HASH     a PNG                            POST /answer  {labeller, kind, id, pictures, answer}
                                                            POST /undo    {labeller, kind}

The token is in the query of the address, or in the header X-Token. Requests and responses of POST are JSON; a response
has the labeller's standing and the next question.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..errors import DFusionError, LabelError
from ..labels.asking import ORDER, PAIR
from .guard import LARGEST_BODY, TOKEN, refusal
from .pages import page, policy
from .session import PictureOf, Session, Shown, clean_name

PICTURE = re.compile(r"/picture/([0-9a-f]{32})")
REQUESTS = ("/next", "/answer", "/undo")
PATIENCE = 30  # timeout of a request in seconds
JSON, HTML, PNG, TEXT = "application/json", "text/html; charset=utf-8", "image/png", "text/plain; charset=utf-8"


class LabelServer(ThreadingHTTPServer):
    """Serves one session until it is shut down, with a thread per request."""

    daemon_threads = True

    def __init__(self, session: Session, picture: PictureOf, token: str, host: str, port: int) -> None:
        """Bind to host and port (0: any that is free). Raises LabelError if that is not possible."""
        self.session, self.picture, self.token, self.host = session, picture, token, host
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise LabelError(
                f"label: cannot listen on {host}:{port}: {why}.",
                "Choose another one with --port, or --port 0 for any that is free.",
            ) from None

    @property
    def address(self) -> str:
        """The address of the page."""
        name = "127.0.0.1" if self.host in ("0.0.0.0", "") else self.host
        return f"http://{name}:{self.server_address[1]}/?{TOKEN}={self.token}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore closed connections; print other errors and continue."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            print(f"label: a request failed: {type(error).__name__}: {error}", file=sys.stderr)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: LabelServer
    timeout = PATIENCE
    server_version, sys_version = "dfusion", ""

    def do_GET(self) -> None:
        """The page or a picture."""
        path = urlsplit(self.path).path
        if not self._is_welcome():
            return
        if path == "/":
            nonce = secrets.token_urlsafe(16)
            self._send(HTTPStatus.OK, HTML, page(self.server.session.title, self.server.session.orders, nonce), nonce)
        elif (found := PICTURE.fullmatch(path)) and (data := self.server.picture(found[1])):
            self._send(HTTPStatus.OK, PNG, data, keep="private, max-age=86400, immutable")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such page.")

    def do_POST(self) -> None:
        """One of the requests of the page."""
        if not self._is_welcome():
            return
        path = urlsplit(self.path).path
        if path not in REQUESTS:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such request.")
            return
        body = self._body()
        if body is None:
            return
        try:
            self._send(HTTPStatus.OK, JSON, json.dumps(self._do(path, body)).encode())
        except (LabelError, KeyError, TypeError, AttributeError) as error:  # not from the page
            self._refuse(HTTPStatus.BAD_REQUEST, error.message if isinstance(error, LabelError) else "No such request.")
        except (DFusionError, OSError) as error:  # the file of answers cannot be read or written
            print(f"label: {error}", file=sys.stderr)
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))

    def _do(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Handle a request; returns the labeller's standing and the next question."""
        session, labeller = self.server.session, clean_name(body.get("labeller"))
        kind = ORDER if body.get("kind") == ORDER else PAIR
        shown: Shown | None = None
        if path == "/answer":
            pictures = body["pictures"]
            if not isinstance(pictures, list) or not re.fullmatch("[0-9a-f]{8,64}", body["id"]):
                raise LabelError("label: no such answer.")
            session.answer(labeller, body["id"], pictures, str(body["answer"]))
        elif path == "/undo":
            shown = session.undo(labeller)
        return standing(session, labeller, shown or session.next(labeller, kind))

    def _is_welcome(self) -> bool:
        """Check a request; if it is not allowed, refuse it and return False."""
        query = parse_qs(urlsplit(self.path).query)
        given = self.headers.get("X-Token") or query.get(TOKEN, [""])[0]
        why = refusal(dict(self.headers.items()), given, self.server.token, self.server.host)
        if why:
            self._refuse(HTTPStatus.FORBIDDEN, why)
        return not why

    def _body(self) -> dict[str, Any] | None:
        """The JSON object of a request; None if it is malformed or too large."""
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,9}", length) or self.headers.get("Content-Type") != JSON:
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "A request is JSON of known length.")
            return None
        if int(length) > LARGEST_BODY:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request is too large.")
            return None
        try:
            found = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            self._refuse(HTTPStatus.BAD_REQUEST, "The request is no JSON.")
            return None
        return found

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        """Refuse with a message, and close the connection."""
        self.close_connection = True
        self._send(status, TEXT, f"{why}\n".encode())

    def _send(self, status: HTTPStatus, kind: str, data: bytes, nonce: str = "none", keep: str = "no-store") -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            "Cache-Control": keep,
            "Content-Security-Policy": policy(nonce),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""


def standing(session: Session, labeller: str, shown: Shown | None) -> dict[str, Any]:
    """A labeller's standing and next question as plain JSON."""
    found = session.standing(labeller)
    question = (
        None
        if shown is None
        else {"id": shown.id, "kind": shown.kind, "prompt": shown.question.prompt, "pictures": shown.question.pictures}
    )
    return {
        "question": question,
        "done": found.progress.done,
        "needed": found.progress.needed,
        "mine": found.mine,
        "seconds_left": found.seconds_left,
        "same": found.consistency.same,
        "repeats": found.consistency.repeats,
    }
