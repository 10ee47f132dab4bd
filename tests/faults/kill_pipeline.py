"""Kill `dvc repro` again and again at random times, and see whether the run ends as if nothing had happened.

    python tests/faults/kill_pipeline.py --kills 50 --seed 0 --rounds 2 --params tiny --out found

The whole process group of `dvc repro` gets SIGKILL. When the kills are used up, it runs to its end. Then the adapters
and all outputs are compared, byte by byte, with a run of the same stages without DVC and without kills, and
`dfusion verify` reads everything. found.json, found.md and found.csv say how many kills hit which stage, how many
finished pieces of work were done twice, and per round the kills, the time, the largest memory of a stage and the bytes
on the disk. Exit code 1 if something differs, was done twice, or was begun before the piece before it was safe.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from kill_report import differences, lost, repeated, write_report  # noqa: E402
from tiny_repository import STAGES, environment, make_repository, run_directly  # noqa: E402

# Files that DVC writes in place, and its words for one that it was killed in.
BROKEN = {".dvc/tmp/rwlock": "Unable to read RWLock-file", "dvc.lock": "dvc.lock"}
PATIENCE = 4  # attempts without any progress before the next may take longer


class Killer:
    """Runs `dvc repro` in `folder` until it is done, killing it `kills` times."""

    def __init__(self, folder: Path, kills: int, every: float, seed: int) -> None:
        self.folder, self.kills, self.every = folder, kills, every
        self.random = random.Random(seed)
        self.journal = folder / ".journal"
        self.attempts: list[dict[str, Any]] = []
        self.stuck = 0

    def run(self) -> list[dict[str, Any]]:
        """What became of each attempt. Raises RuntimeError where DVC or a stage fails by itself."""
        while not (self.attempts and self.attempts[-1]["code"] == 0):
            self.attempts.append(self.attempt(kill=len(self.attempts) < self.kills))
            print(json.dumps(self.attempts[-1]), flush=True)
            if self.attempts[-1]["code"] > 0:
                self.mend()
        return self.attempts

    def attempt(self, kill: bool) -> dict[str, Any]:
        """One `dvc repro`, killed after a random time or left alone."""
        known, start = self.progress(), time.monotonic()
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                ["dvc", "repro"],
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment(self.folder, JOURNAL=str(self.journal), PYTHONUNBUFFERED="1"),
            )
            if kill:
                self.kill(process, self.random.uniform(0, 2 * self.every) * 2 ** (self.stuck // PATIENCE))
            code = process.wait()
            output.seek(0)
            said = output.read()
        self.stuck = 0 if self.progress() != known else self.stuck + 1
        seconds = round(time.monotonic() - start, 2)
        return {
            "code": code,
            "seconds": seconds,
            "at": time.time(),
            "hit": self.hit(said) if code < 0 else None,
            "put_back": said.count("it is put back"),
            "continued": said.count("continues;"),
            "said": said if code > 0 else "",
        }

    def kill(self, process: subprocess.Popen[bytes], after: float) -> None:
        """SIGKILL to the group, unless it ends before."""
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)

    def progress(self) -> tuple[int, int]:
        """How much has been done: lines of the journal, bytes of dvc.lock."""
        return tuple(
            path.stat().st_size if path.exists() else 0  # type: ignore[return-value]
            for path in (self.journal, self.folder / "dvc.lock")
        )

    def hit(self, said: str) -> str:
        """What ran when the kill came: a stage, or DVC before, between and after stages."""
        started = [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")]
        notes = [json.loads(line) for line in self.journal.read_text().splitlines()] if self.journal.exists() else []
        last = notes[-1] if notes else {}
        if not started:
            return "dvc before the first stage"
        name = started[-1]
        if "ended" in last and last["ended"].replace(" ", "@") in (name, name.replace("_base", "@init")):
            return f"dvc after {name.partition('@')[0]}"
        return name.partition("@")[0]

    def mend(self) -> None:
        """Do what the documentation says for a file that a killed DVC has left in pieces; fail for anything else."""
        said = self.attempts[-1]["said"]
        broken = [name for name, words in BROKEN.items() if words in said]
        if not broken:
            raise RuntimeError(said)
        (self.folder / broken[0]).unlink()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--params", choices=("tiny", "micro"), default="tiny")
    parser.add_argument("--every", type=float, default=10, help="seconds between two kills, on average")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder if not given")
    parser.add_argument("--out", type=Path, default=Path("kills"), help="the report's name, without an ending")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        report = torture(folder, given.params, given.rounds, given.kills, given.every, given.seed)
        write_report(given.out, report)
    print(given.out.with_suffix(".md").read_text())
    sys.exit(1 if report["differences"] or report["repeated"] or report["lost"] else 0)


def torture(folder: Path, params: str, rounds: int, kills: int, every: float, seed: int) -> dict[str, Any]:
    """Both runs, and what is to be reported about them."""
    quiet, killed = folder / "quiet", folder / "killed"
    launcher = dict.fromkeys(STAGES, f"{sys.executable} {HERE / 'journal.py'}")
    for place in (quiet, killed):
        make_repository(place, params, rounds, launcher=launcher)
    start = time.monotonic()
    run_directly(quiet, rounds)
    alone = time.monotonic() - start
    start = time.monotonic()
    attempts = Killer(killed, kills, every, seed).run()
    notes = [json.loads(line) for line in (killed / ".journal").read_text().splitlines()]
    return {
        "params": params,
        "rounds": rounds,
        "seed": seed,
        "kills": sum(one["code"] < 0 for one in attempts),
        "seconds": time.monotonic() - start,
        "seconds_without_kills_and_dvc": alone,
        "locks_removed": sum(one["code"] > 0 for one in attempts),
        "hits": Counter(one["hit"] for one in attempts if one["hit"]),
        "put_back": sum(one["put_back"] for one in attempts),
        "continued": sum(one["continued"] for one in attempts),
        "pieces": len({tuple(note["piece"]) for note in notes if "piece" in note}),
        "repeated": repeated(notes),
        "lost": lost(notes),
        "differences": differences(quiet, killed),
        "attempts": attempts,
        "notes": notes,
        "folder": str(killed),
    }


if __name__ == "__main__":
    main()
