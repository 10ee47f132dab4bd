"""Labellers that are no people, by the name that the command line gives them."""

from __future__ import annotations

from ..errors import LabelError
from .client import oracle
from .pictures import Pictures
from .serving import serve_client
from .session import Session

ORACLE = "oracle"


def run_program(name: str, session: Session, pictures: Pictures) -> str:
    """Let a program give the answers of a session; a sentence about it. Raises LabelError for an unknown one."""
    if name != ORACLE:
        raise LabelError(
            f"--labeller: there is no labeller '{name}'.",
            f"Use '--labeller {ORACLE}' on the micro-world, or leave it out: then people are asked.",
        )
    given = serve_client(session, pictures.png, name, oracle())
    return f"{session.title}: the oracle gave {given} answers, in {session.file}."
