"""What a run with kills has to show: equal bytes, no work done twice, and flat rounds."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
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
    checked = call(killed, sys.executable, "-m", "dfusion_core.commands.cli", "verify", "runs")
    status = call(killed, "dvc", "status")
    return wrong + ([] if " 0 problems" in checked else [checked]) + ([] if "up to date" in status else [status])


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file of runs and results; the digests of code and prompts are DVC's alone."""
    return {
        path.relative_to(folder).as_posix(): digest_of_file(path)
        for area in ("runs", "results")
        for path in sorted((folder / area).rglob("*"))
        if path.is_file() and path.parent.name != "code" and path.relative_to(folder) != Path("results/prompts.json")
    }


def lost(notes: list[dict[str, Any]]) -> list[list[Any]]:
    """Pieces that a process began while one that it had begun before was not safe yet: a kill would cost both."""
    open_pieces: dict[int, set[tuple[Any, ...]]] = {}
    found = []
    for note in notes:
        if "started" in note:  # by a process that may have the number of an older one
            open_pieces[note["pid"]] = set()
        elif "begun" in note:
            unsafe = open_pieces[note["pid"]]
            found += [note["begun"]] if unsafe else []
            unsafe.add(tuple(note["begun"]))
        elif "piece" in note:
            open_pieces[note["pid"]].discard(tuple(note["piece"]))
    return found


def processes(notes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every process of a stage of a round that came to its end, in order; `whole` if it was the first to try.

    `before` are the seconds since the process before it ended, which DVC has used; None if that one was killed.
    """
    found: list[dict[str, Any]] = []
    starts: dict[int, dict[str, Any]] = {}
    tried: Counter[str] = Counter()
    last: dict[str, Any] = {}
    for note in notes:
        if "started" in note:
            tried[note["started"]] += 1
            starts[note["pid"]] = {**note, "before": note["time"] - last["time"] if "ended" in last else None}
        elif "ended" in note:
            start = starts[note["pid"]]
            stage, _, round = note["ended"].partition(" ")
            found.append(
                {
                    "stage": stage,
                    "round": round,
                    "seconds": note["time"] - start["time"],
                    "cpu": note["cpu"],
                    "memory_mib": note["mebibytes"],
                    "whole": tried[note["ended"]] == 1,
                    "before": start["before"],
                    "first": start["time"],
                    "last": note["time"],
                }
            )
        last = note
    return found


def by_round(notes: list[dict[str, Any]], attempts: list[dict[str, Any]], folder: Path) -> pd.DataFrame:
    """Per round: kills, seconds from the first start to the last end, largest memory of a stage, MB in runs."""
    first: dict[str, float] = {}
    for note in notes:
        if "started" in note:
            first.setdefault(note["started"].partition(" ")[2], note["time"])
    ends = pd.DataFrame(processes(notes)).groupby("round", sort=False)
    rounds = pd.DataFrame({"last": ends["last"].max(), "memory_mib": ends.memory_mib.max()}).drop(index="")
    rounds["first"] = [first[round] for round in rounds.index]
    killed = [one["at"] for one in attempts if one["code"] < 0]
    rounds["kills"] = [sum(row["first"] < at < row["last"] for at in killed) for _, row in rounds.iterrows()]
    rounds["seconds"] = rounds["last"] - rounds["first"]
    rounds["runs_mb"] = [size(folder / "runs" / round) / 1e6 for round in rounds.index]
    return rounds[["kills", "seconds", "memory_mib", "runs_mb"]].round(1).reset_index()


def flatness(notes: list[dict[str, Any]], count: int) -> pd.DataFrame:
    """Per stage, means over its whole processes of the first and the last rounds; the last row is DVC in between."""
    found = pd.DataFrame(processes(notes))
    rounds = [round for round in dict.fromkeys(found["round"]) if round not in ("", "init")]
    found["when"] = found["round"].map(
        {round: "first" for round in rounds[:count]} | {round: "last" for round in rounds[-count:]}
    )
    found = found.dropna(subset="when")
    means = found[found.whole].groupby(["stage", "when"], sort=False)[["seconds", "cpu", "memory_mib"]].mean()
    table = means.unstack("when")
    table.columns = ["_".join(pair) for pair in table.columns]
    between = found.groupby("when").before.median()
    table.loc["DVC before a stage", ["seconds_first", "seconds_last"]] = [between["first"], between["last"]]
    return table.round(1).reset_index()


def size(folder: Path) -> int:
    """Bytes below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_report(out: Path, report: dict[str, Any]) -> None:
    """OUT.json, OUT.csv with a row for each round, and OUT.md."""
    notes, folder = report.pop("notes"), Path(report["folder"])
    rounds = by_round(notes, report["attempts"], folder)
    rounds.to_csv(out.with_suffix(".csv"), index=False)
    cache = size(folder / ".dvc/cache") / 1e6
    out.with_suffix(".json").write_text(json.dumps({**report, "cache_mb": round(cache, 1)}, indent=1) + "\n")
    hits = ", ".join(f"{name} {count}" for name, count in sorted(report["hits"].items()))
    lines = [
        f"{report['rounds']} rounds ({report['params']}), {report['kills']} kills in {report['seconds']:.0f} s; the "
        f"same stages without DVC and kills took {report['seconds_without_kills_and_dvc']:.0f} s.",
        "",
        f"* differences to the run without kills: {len(report['differences'])}",
        f"* finished pieces of work that were done again: {len(report['repeated'])} of {report['pieces']}",
        f"* stages that went on where they were: {report['continued']}; outputs put back that DVC had not recorded: "
        f"{report['put_back']}",
        f"* lock files of DVC that had to be removed: {report['locks_removed']}",
        f"* kills by what ran: {hits}",
        f"* pieces begun while another one was not safe: {len(report['lost'])}",
        f"* DVC's cache: {cache:.1f} MB",
    ]
    tables = [rounds] if report["rounds"] < 4 else [rounds, flatness(notes, report["rounds"] // 4)]
    out.with_suffix(".md").write_text("\n\n".join(["\n".join(lines), *map(markdown, tables)]) + "\n")


def markdown(table: pd.DataFrame) -> str:
    """A table with a line of names."""
    lines = table.astype(object).fillna("").itertuples(index=False)
    rows: list[list[Any]] = [list(table.columns), ["---"] * len(table.columns), *map(list, lines)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
