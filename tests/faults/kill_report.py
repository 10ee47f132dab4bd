"""What a run with kills has to show: equal bytes, no work done twice, and flat rounds."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from disk_states import digest_of_file
from tiny_repository import call


def repeated(notes: list[dict[str, Any]]) -> list[list[Any]]:
    """Pieces of work that were finished and done again."""
    count = Counter(tuple(note["piece"]) for note in notes if "piece" in note)
    return [[*piece] for piece, times in count.items() if times > 1]


def differences(quiet: Path, killed: Path) -> list[str]:
    """Files of runs and results that are not the same in both, and what `dfusion verify` and DVC complain about."""
    ours, theirs = (contents(folder) for folder in (quiet, killed))
    wrong = [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]
    checked = call(killed, sys.executable, "-m", "dfusion_core.cli", "verify", "runs")
    status = call(killed, "dvc", "status")
    return (wrong + ([] if " 0 problems" in checked else [checked])
            + ([] if "up to date" in status else [status]))


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file of runs and results."""
    return {path.relative_to(folder).as_posix(): digest_of_file(path)
            for area in ("runs", "results") for path in sorted((folder / area).rglob("*")) if path.is_file()}


def by_round(notes: list[dict[str, Any]], folder: Path) -> dict[str, dict[str, float]]:
    """Per round: seconds from its first start to its last end, largest memory of a stage in MiB, MB in runs."""
    found: dict[str, dict[str, float]] = {}
    for note in notes:
        command = note.get("started") or note.get("ended") or ""
        round = command.partition(" ")[2]
        if round:
            row = found.setdefault(round, {"first": note["time"], "last": 0.0, "memory": 0.0, "pieces": 0})
            row["last"], row["memory"] = note["time"], max(row["memory"], note.get("mebibytes", 0.0))
    return {round: {"seconds": round_(row["last"] - row["first"]), "memory_mib": round_(row["memory"]),
                    "runs_mb": round_(size(folder / "runs" / round) / 1e6)} for round, row in found.items()}


def round_(value: float) -> float:
    """One digit behind the point."""
    return round(value, 1)


def size(folder: Path) -> int:
    """Bytes below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_report(out: Path, report: dict[str, Any]) -> None:
    """OUT.json and OUT.md."""
    rounds = by_round(report.pop("notes"), Path(report["folder"]))
    cache = size(Path(report["folder"]) / ".dvc/cache") / 1e6
    out.with_suffix(".json").write_text(json.dumps(
        {**report, "cache_mb": round_(cache), "by_round": rounds}, indent=1) + "\n")
    hits = ", ".join(f"{name} {count}" for name, count in sorted(report["hits"].items()))
    lines = [
        f"{report['rounds']} rounds ({report['params']}), {report['kills']} kills in {report['seconds']:.0f} s; the "
        f"same stages without DVC and kills took {report['seconds_without_kills_and_dvc']:.0f} s.", "",
        f"* differences to the run without kills: {len(report['differences'])}",
        f"* finished pieces of work that were done again: {len(report['repeated'])} of {report['pieces']}",
        f"* stages that went on where they were: {report['continued']}; outputs put back that DVC had not recorded: "
        f"{report['put_back']}",
        f"* lock files of DVC that had to be removed: {report['locks_removed']}", f"* kills by what ran: {hits}",
        f"* DVC's cache: {cache:.1f} MB", "",
        "| round | seconds | largest memory (MiB) | runs (MB) |", "|---|---|---|---|"]
    lines += [f"| {name} | {row['seconds']} | {row['memory_mib']} | {row['runs_mb']} |" for name, row in rounds.items()]
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
