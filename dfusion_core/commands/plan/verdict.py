"""Whether a run fits, and if not, which parameters to change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .devices import GIB

if TYPE_CHECKING:
    from .estimate import Plan
    from .memory import Memory


@dataclass(frozen=True)
class Problem:
    """What does not fit, and a fix: ``changes`` maps keys of params.yaml to (value now, value that fits)."""

    what: str
    changes: dict[str, tuple[int, int]]

    def __str__(self) -> str:
        steps = [f"{key} to {value} (now {now})" for key, (now, value) in self.changes.items()]
        return f"{self.what}. " + (f"Set {' and '.join(steps)}." if steps else "No parameter makes that small enough.")


def problems(plan: Plan) -> list[Problem]:
    """Everything that cannot fit, the disk last."""
    found = [
        too_large(name, stage.memory, plan.device.memory)
        for name, stage in plan.stages.items()
        if stage.memory.peak > plan.device.memory
    ]
    needed = plan.disk.need(plan.work.rounds, plan.work.kept_kv)
    return found + ([disk_full(plan, needed)] if needed > plan.disk.free else [])


def too_large(name: str, memory: Memory, limit: int) -> Problem:
    """A stage whose peak is above the device's memory."""
    largest = memory.largest(limit)
    what = f"{name} needs {memory.peak / GIB:.1f} GiB of memory, the device has {limit / GIB:.1f}"
    if largest or not memory.knob:
        return Problem(what, {memory.knob: (memory.batch, largest)} if largest else {})
    least = replace(memory, batch=1).peak / GIB
    return Problem(f"{what}; even with {memory.knob} 1 it needs {least:.1f}", {})


def disk_full(plan: Plan, needed: int) -> Problem:
    """Too little disk: fewer stored keys and values if that is enough, else none of them and fewer rounds."""
    rounds, kept, disk = plan.work.rounds, plan.work.kept_kv, plan.disk
    what = f"the run needs {needed / GIB:.1f} GiB of disk, {disk.free / GIB:.1f} are free"
    for fewer in range(kept - 1, -1, -1):
        if disk.need(rounds, fewer) <= disk.free:
            return Problem(what, {"extract.keep_kv": (kept, fewer)})
    without = {"extract.keep_kv": (kept, 0)} if kept else {}
    for fewer in range(rounds - 1, 0, -1):
        if disk.need(fewer, 0) <= disk.free:
            return Problem(what, without | {"the number of rounds": (rounds, fewer)})
    return Problem(what, {})
