"""Running all checks, independent of the findings of others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .facts import Facts
from .findings import Finding, from_error


@dataclass(frozen=True)
class Check:
    """``look`` runs the check; ``needs`` are the names of checks that must have passed before."""

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
    """The check's finding; an exception becomes a finding."""
    try:
        return check.look(facts)
    except Exception as error:  # an exception in one check must not stop the others
        return from_error(error)
