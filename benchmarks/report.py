"""The table on the screen and the JSON file, with everything that a figure depends on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dfusion_core.store.atomic import write_text
from dfusion_core.store.provenance import environment

from .observing import clock
from .result import Check, Result

ROOT = Path(__file__).parents[1]


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, cores that this process may use, threads of torch, GPU."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "clock": clock(device).__name__,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "tf32": torch.backends.cudnn.allow_tf32,
    }


def cpu_name() -> str:
    """As the system gives it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )


@cache
def commit() -> str:
    """The commit when this is first called, "+" behind it where files differ from it, "" outside of a repository."""
    head, changed = (
        subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    )
    return "" if head.returncode else head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def write_report(file: Path, results: Sequence[Result], settings: dict[str, Any], device: torch.device) -> None:
    """All results as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = {
        "commit": commit(),
        "machine": machine(device),
        "environment": environment(),
        "settings": settings,
        "results": [result.as_json() for result in results],
    }
    write_text(file, json.dumps(whole, indent=1) + "\n")


def show(results: Sequence[Result]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("gate", "what", "bar", "measured", "exactness", "verdict")
    for result in results:
        table.add_row(
            result.gate,
            "\n".join(filter(None, [result.what, result.note])),
            str(result.bar or ""),
            measured(result),
            "\n".join(map(checked, result.checks)),
            result.verdict,
        )
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def measured(result: Result) -> str:
    """Median and range."""
    if result.median is None:
        return ""
    if len(result.values) == 1:
        return f"{result.median:.4g}"
    return f"{result.median:.4g} ({min(result.values):.4g} - {max(result.values):.4g})"


def checked(check: Check) -> str:
    return f"{check.what}: {check.value:.2g} ({'' if check.holds else 'not '}{check.bar})"
