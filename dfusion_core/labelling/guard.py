"""Checks of requests: the token, the origin, and the server's own host name.

A page of another site in the same browser has neither the token nor the origin; a foreign host name that resolves to
this address (DNS rebinding) is refused.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Mapping
from urllib.parse import urlsplit

LOCAL = ("127.0.0.1", "localhost", "::1")
LARGEST_BODY = 64 * 1024  # largest request in bytes
TOKEN = "token"


def refusal(headers: Mapping[str, str], given: str, token: str, host: str) -> str:
    """Why a request is refused, in a sentence; empty if it is not.

    given: the token of the request. host: the server's address; 0.0.0.0 and :: accept any IP address as host, but no
    name.
    """
    called = headers.get("Host", "")
    if not _is_own_name(called, host):
        return "This server is called by another name. Use the address that the command printed."
    origin = headers.get("Origin")
    if origin is not None and origin != f"http://{called}":
        return "Requests of other pages are refused."
    if (
        headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
        and headers.get("Sec-Fetch-Dest") != "document"
    ):  # a link to the page may come from elsewhere
        return "Requests of other pages are refused."
    if not secrets.compare_digest(given.encode(), token.encode()):
        return "The token is missing or wrong. Use the whole address that the command printed."
    return ""


def _is_own_name(called: str, host: str) -> bool:
    """Whether a Host header names this server; through a tunnel the port differs."""
    try:
        name = urlsplit(f"//{called}").hostname or ""
    except ValueError:
        return False
    if name in LOCAL or name == host:
        return True
    try:
        ipaddress.ip_address(name)
        return host in ("0.0.0.0", "::", "")
    except ValueError:
        return False
