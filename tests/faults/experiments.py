"""What `watched.py` starts in a tiny project, with the shim below this process: crash, fill or close the disk."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import NamedTuple

import torch
from disk_states import Cache, Sizes, State, digest, halves, look, published, put
from shim import GO, HALF, MAKES, Ended, Step, child
from watched import STAGES

from dfusion_core.runtime.entry import INTERRUPTED, guarded, stop_on_signals

TAKES_SPACE = (*MAKES, "write", "copy")
FEW_BYTES = 1000
QUICK = ("score@r00", "adopt@r00")  # those without a U-Net are the first to try the places that all stages share
KNOWN: dict[str, set[str]] = {}  # places that an experiment has tried in an earlier stage: the store's are the same


class Stage(NamedTuple):
    """A stage as it is named in dvc.yaml, and the disk before and after an uninterrupted run."""

    name: str
    before: State
    after: State

    def run(self) -> None:
        """Run it as its command does."""
        call(self.name)


def call(name: str) -> None:
    """The stage `name`, with the messages and exit codes of its command."""
    stage, _, round = name.partition("@")
    function = guarded(getattr(import_module(f"stages.{stage}"), stage))
    function(*filter(None, [round]))


def uninterrupted() -> Iterator[Stage]:
    """Every stage, run once in this very process: from then on everything is imported, and a fork starts at once."""
    torch.set_num_threads(1)
    for name in STAGES:
        before = look()
        call(name)
        yield Stage(name, before, look())


def place(step: Step) -> str:
    """What distinguishes two operations of one line of code: not the number of a part, or the name of an array."""
    path = f"{step.path} {step.other}"
    path = re.sub(r"[0-9a-f]{16,}|\d{8}", "*", path)  # fingerprints, temporary names, parts
    path = re.sub(r"(?<=\.zarr/)(?!zarr|c/).*?(?=/zarr|/c\b| |$)", "*", path)  # arrays
    path = re.sub(r"/c(/\d+)+", "/c", path)  # shards
    path = re.sub(r"(?<=\.new/)\S+|(?<=\.old/)\S+|(?<=\.deleted/)\S+", "*", path)  # files of a tree
    path = re.sub(r"(?<=live/plots/metrics/)\w+", "*", path)  # columns
    path = re.sub(r"\b(sample|score|extract|kv|fuse|adopt|train|evaluate|init|r00)\b", "*", path)  # stages and rounds
    return f"{step.operation} {path.split()[0] if '.new/' in path else path}"


def sampled(steps: list[Step], every: bool, experiment: str) -> set[int]:
    """The points to try: all, or the first of each place that this experiment does not know yet."""
    known, points = KNOWN.setdefault(experiment, set()), set()
    for i, step in enumerate(steps):
        if every or place(step) not in known:
            points.add(i)
            known.add(place(step))
    return points


def record(stage: Stage) -> list[Step]:
    """The operations of an uninterrupted run, writes in halves."""
    steps: list[Step] = []

    def note(step: Step) -> str:
        steps.append(step)
        return HALF if step.operation == "write" and step.bytes > 1 else GO

    put(stage.before)
    ended = child(stage.run, note)
    assert ended.code == 0, ended.said
    return steps


def crash(stage: Stage, every: bool) -> dict[str, object]:
    """Stop before every operation and after half of every write: as after SIGKILL, and as after a power failure."""
    wanted = sampled(record(stage), every, "crash")
    points: list[Step] = []
    states: dict[str, tuple[str, State]] = {}
    cache, sizes, failures = Cache(), Sizes(), []

    def watch(step: Step) -> str:
        if points:
            cache.done(points[-1])
            sizes.done(points[-1])
        failures.extend(too_early(step, cache))
        if len(points) in wanted:
            now = look()
            for kept in (1.0, 0.0, 0.5) if every else (1.0, 0.0):
                state = cache.after_power_loss(now, kept)
                states.setdefault(digest(state), (f"{len(points)}: {step}, {kept} of unsynced bytes", state))
        points.append(step)
        return HALF if step.operation == "write" and step.bytes > 1 else GO

    put(stage.before)
    child(stage.run, watch)
    cache.done(points[-1])
    sizes.done(points[-1])
    end = look()
    failures += [f"not seen: {name}" for name in sizes.unseen(stage.before, end)]
    failures += [f"not synced at the end: {name}" for name in cache.unsafe("runs", "results")]
    failures += different(end, stage)
    for where, state in states.values():
        put(state)
        failures += [f"{where}: half of {output}" for output in halves(state, stage.before, stage.after)]
        ended = child(stage.run)
        failures += [f"{where}: {problem}" for problem in ([ended.said] if ended.code else different(look(), stage))]
    return {"points": len(points), "tried": len(states), "failures": failures}


def too_early(step: Step, cache: Cache) -> list[str]:
    """Things that a power failure could take although what comes now relies on them."""
    hidden = os.path.basename(step.other).startswith(".")
    if step.operation == "rename" and step.other.startswith(("runs/", "results/")) and not hidden:
        return [
            f"published before it was synced: {name}"
            for name in cache.unsafe(step.path)
            if name != step.path or name in cache.files
        ]
    if step.operation == "unlink" and "/parts/" in step.path and "/." not in step.path:
        return [f"{step.path} deleted before {name} was synced" for name in cache.unsafe("runs")]
    return []


def different(state: State, stage: Stage) -> list[str]:
    """What is not as after an uninterrupted run: published files, and leftovers in scratch."""
    found, wanted = published(state), published(stage.after)
    wrong = [f"{name} differs" for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]
    return wrong + [f"{name} is left over" for name in sorted(state.keys() - stage.after.keys())]


def full(stage: Stage, every: bool) -> dict[str, object]:
    """The disk is full from the n-th operation that takes space on, for each n; then there is space again."""
    steps = [step for step in record(stage) if step.operation in TAKES_SPACE]
    wanted = sorted(sampled(steps, every, "full"))
    failures: list[str] = []
    for n in wanted:
        ended = refused(stage, n, errno.ENOSPC, TAKES_SPACE, "")
        where = f"{n}: {steps[n]}"
        failures += wrong_ending(where, ended.code, ended.said, "no space left on device", "DFUSION_SCRATCH")
        failures += [f"{where}: half of {output}" for output in halves(look(), stage.before, stage.after)]
        again = child(stage.run)
        failures += [f"{where}: {problem}" for problem in ([again.said] if again.code else different(look(), stage))]
    return {"points": len(steps), "tried": len(wanted), "failures": failures}


def closed(stage: Stage, every: bool) -> dict[str, object]:
    """runs, results or scratch is on a disk that is read-only."""
    failures: list[str] = []
    folders = sorted({step.path.split("/")[0] for step in record(stage)})
    for folder in folders:
        ended = refused(stage, 0, errno.EROFS, (*TAKES_SPACE, "rename", "unlink", "rmdir", "open"), folder)
        failures += wrong_ending(folder, ended.code, ended.said, "read-only file system", folder)
        again = child(stage.run)
        failures += [f"{folder}: {problem}" for problem in ([again.said] if again.code else different(look(), stage))]
    return {"points": len(folders), "tried": len(folders), "failures": failures}


def space(stage: Stage, every: bool) -> dict[str, object]:
    """Too little space is noticed before the first part is written; stages without parts write next to nothing."""

    def few(step: Step) -> str:
        return f"free {FEW_BYTES}" if step.operation == "statvfs" else GO

    put(stage.before)
    ended = child(stage.run, few)
    parts = [name for name in look() if "/parts/" in name]
    failures = [] if ended.code == 1 and not parts else [f"{ended.code}, {parts}: {ended.said}"]
    failures += [] if ended.code != 1 or "more on the disk of .dfusion" in ended.said else [ended.said]
    return {"points": 1, "tried": 1, "failures": failures, "said": ended.said}


def stop(stage: Stage, every: bool) -> dict[str, object]:
    """Ctrl-C, or SIGTERM, at every operation: a sentence, and the exit code that says so."""
    steps = [step for step in record(stage) if step.operation != "half"]
    wanted = sorted(sampled(steps, every, "stop"))
    failures: list[str] = []
    for n in wanted:
        number = signal.SIGINT if n % 2 else signal.SIGTERM
        ended = interrupted(stage, n, number)
        if ended.code != 128 + number or ended.said.splitlines()[-1:] != [INTERRUPTED]:
            failures.append(f"{n}: {steps[n]}: ended with {ended.code}: {ended.said}")
    again = child(stage.run)
    failures += [again.said] if again.code else different(look(), stage)
    return {"points": len(steps), "tried": len(wanted), "failures": failures}


def interrupted(stage: Stage, at: int, number: signal.Signals) -> Ended:
    """How the stage ends with a signal at operation `at`; what it has done so far is there the next time."""
    count = -1

    def answer(step: Step) -> str | signal.Signals:
        nonlocal count
        count += 1
        return number if count == at else GO

    def command() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what it runs beside itself
        stop_on_signals()
        stage.run()

    put(stage.before)
    return child(command, answer)


def refused(stage: Stage, first: int, code: int, operations: tuple[str, ...], below: str) -> Ended:
    """How the stage ends where such operations below a folder fail, from number `first` on."""
    count = -1

    def answer(step: Step) -> str:
        nonlocal count
        if step.operation not in operations or not (step.path.startswith(below) or step.other.startswith(below)):
            return GO
        count += 1
        return GO if count < first else f"fail {code}"

    put(stage.before)
    return child(stage.run, answer)


def wrong_ending(where: str, code: int, said: str, *words: str) -> list[str]:
    """What is wrong with the end of a stage that should have been refused with a message that has these words."""
    last = said.strip().splitlines()[-1] if said.strip() else ""
    fine = code == 1 and "Traceback" not in said and last.startswith("error: ") and all(w in last for w in words)
    return [] if fine else [f"{where}: ended with {code}: {said}"]


EXPERIMENTS: dict[str, Callable[[Stage, bool], dict[str, object]]] = {
    "crash": crash,
    "full": full,
    "closed": closed,
    "space": space,
    "stop": stop,
}


def main(words: list[str]) -> None:
    """Run the experiments that are named, each on all stages or on that which is named behind a colon."""
    stages = sorted(uninterrupted(), key=lambda stage: stage.name not in QUICK)
    for name, _, only in (word.partition(":") for word in words if word != "--every"):
        for stage in stages:
            if only in ("", stage.name):
                found = EXPERIMENTS[name](stage, "--every" in words)
                print(json.dumps({"experiment": name, "stage": stage.name, **found}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
