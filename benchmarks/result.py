"""What a gate asks, what was measured, and what follows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal


@dataclass(frozen=True)
class Bar:
    """A bound of a figure."""

    at: Literal["most", "least"]
    value: float

    def holds(self, figure: float) -> bool:
        return figure <= self.value if self.at == "most" else figure >= self.value

    def __str__(self) -> str:
        return f"{'<=' if self.at == 'most' else '>='} {self.value:g}"


def at_most(value: float) -> Bar:
    return Bar("most", value)


def at_least(value: float) -> Bar:
    return Bar("least", value)


@dataclass(frozen=True)
class Check:
    """An exactness figure of the same run. A speed whose checks do not hold counts for nothing."""

    what: str
    value: float
    bar: Bar

    @property
    def holds(self) -> bool:
        return self.bar.holds(self.value)


@dataclass(frozen=True)
class Result:
    """One line of the table. ``values`` has one figure a repeat, a single one where it is counted, or none."""

    gate: str
    what: str
    values: tuple[float, ...] = ()
    bar: Bar | None = None
    checks: tuple[Check, ...] = ()
    note: str = ""
    seconds: dict[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def median(self) -> float | None:
        return median(self.values) if self.values else None

    @property
    def verdict(self) -> str:
        """ "met", "missed", "not exact", "reported" (there is no bar), or "not measured" (the note says why)."""
        if not all(check.holds for check in self.checks):
            return "not exact"
        if self.median is None:
            return "not measured"
        if self.bar is None:
            return "reported"
        return "met" if self.bar.holds(self.median) else "missed"

    def as_json(self) -> dict[str, Any]:
        """Everything, with what follows from it."""
        low, high = (min(self.values), max(self.values)) if self.values else (None, None)
        return asdict(self) | {"median": self.median, "low": low, "high": high, "verdict": self.verdict}
