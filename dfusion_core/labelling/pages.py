"""The page as one HTML file with its style and script; it loads only pictures of this server."""

from __future__ import annotations

from html import escape
from pathlib import Path

FILES = Path(__file__).parent / "page"


def page(title: str, orders: bool, nonce: str) -> bytes:
    """The page.

    orders: whether rows to be ordered are offered beside pairs. nonce: permits the script in the policy; different for
    each response.
    """
    parts = {
        "@STYLE@": (FILES / "style.css").read_text(encoding="utf-8"),
        "@SCRIPT@": (FILES / "script.js").read_text(encoding="utf-8"),
        "@TITLE@": escape(title),
        "@KINDS@": "" if orders else "hidden",
        "@NONCE@": nonce,
    }
    text = (FILES / "page.html").read_text(encoding="utf-8")
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text.encode()


def policy(nonce: str) -> str:
    """The Content-Security-Policy of every response."""
    return (
        f"default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'nonce-{nonce}'; "
        f"script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
