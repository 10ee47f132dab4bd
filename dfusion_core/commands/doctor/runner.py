"""Running checks: all of them, whatever the others found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .facts import Facts
from .findings import Finding, from_error


@dataclass(frozen=True)
class Check:
    """``look`` does the work; ``needs`` are the names of checks that must not have failed before."""

    name: str
    look: Callable[[Facts], Finding]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """A check that was run, or skipped, in ``seconds``."""

    name: str
    finding: Finding
    seconds: float


def run_checks(checks: Sequence[Check], facts: Facts, before: Callable[[str], None]) -> Iterator[Checked]:
    """Run every check in its order; one that needs a failed or skipped check is skipped. ``before`` gets each name."""
    useless: set[str] = set()
    for check in checks:
        before(check.name)
        start = time.perf_counter()
        missing = [name for name in check.needs if name in useless]
        finding = Finding("skipped", f"because of '{missing[0]}' above") if missing else looked(check, facts)
        if finding.verdict in ("failed", "skipped"):
            useless.add(check.name)
        yield Checked(check.name, finding, time.perf_counter() - start)


def looked(check: Check, facts: Facts) -> Finding:
    """What the check finds; an error that it meets is its finding."""
    try:
        return check.look(facts)
    except Exception as error:  # one check must not take the others with it
        return from_error(error)
