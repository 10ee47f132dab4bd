"""Programs as labellers, by their name on the command line."""

from __future__ import annotations

from ..errors import LabelError
from .client import careless, oracle
from .pictures import Pictures
from .serving import serve_client
from .session import Session

WRONG = {"oracle": 0.0, "careless-oracle": 0.15}  # share of reversed answers


def run_program(name: str, session: Session, pictures: Pictures) -> str:
    """Let a program answer a session; returns a message. Raises LabelError for an unknown program."""
    if name not in WRONG:
        raise LabelError(
            f"--labeller: there is no labeller '{name}'.",
            f"Use '--labeller {' or '.join(WRONG)}' on the micro-world, or leave it out: then people are asked.",
        )
    given = serve_client(session, pictures.png, name, careless(oracle(), WRONG[name]))
    return f"{session.title}: {name} gave {given} answers, in {session.file}."
