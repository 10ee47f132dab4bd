"""Whole rounds of the project in the current folder in one process, each timed: `in_process.py r00 r01 ...`.

Prints {round: seconds of the processor} as its last line: other programs do not add to them. What is imported
and loaded for the first time is not in it: the base model is evaluated before.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module

from dfusion_core.store.paths import ROUND_STAGES


def run(stage: str, *arguments: str) -> None:
    getattr(import_module(f"stages.{stage}"), stage)(*arguments)


def main() -> None:
    """Everything that `dvc repro` would run, without DVC."""
    run("init")
    run("evaluate", "init")
    found = {}
    for name in sys.argv[1:]:
        start = time.process_time()
        for stage in ROUND_STAGES:
            run(stage, name)
        found[name] = time.process_time() - start
    run("summary")
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
