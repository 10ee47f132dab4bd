"""A launcher for params.yaml: runs `-m stages.NAME ROUND` and appends to $STAGE_TIMES how long it and its imports took.

launcher: {sample: python benchmarks/pipeline/timed.py, ...}
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

MARK = "import time:"


def main() -> int:
    """Run the stage with Python's own report of import times, and take it out of what is shown."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *sys.argv[1:]], stderr=subprocess.PIPE, text=True, check=False
    )
    seconds = time.perf_counter() - start
    imports = 0.0
    for line in done.stderr.splitlines():
        own = line.removeprefix(MARK).partition("|")[0].strip()
        if not line.startswith(MARK):
            print(line, file=sys.stderr)
        elif own.isdigit():  # microseconds of the module itself; the heading has words there
            imports += int(own) / 1e6
    stage = sys.argv[2].removeprefix("stages.")
    with Path(os.environ["STAGE_TIMES"]).open("a") as file:
        file.write(json.dumps({"stage": stage, "round": sys.argv[3:], "seconds": seconds, "imports": imports}) + "\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
