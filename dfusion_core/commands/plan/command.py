"""`dfusion plan`: the resources that a run needs, as a table or as JSON, and whether it fits."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...runtime.entry import guarded, uncollected

if TYPE_CHECKING:
    from .estimate import Plan, Stage
    from .verdict import Problem

PETA, TERA, GIGA, GIB = 1e15, 1e12, 1e9, 2**30


@guarded
def plan(
    params: Annotated[Path, typer.Option(help="The parameter file.")] = Path("params.yaml"),
    device: Annotated[
        str,
        typer.Option(
            help="Plan for rtx3090, rtx4090, rtx5090, l40s, a100-40gb, a100, h100, h200 or b200, estimated, not for "
            "the device found here."
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Estimate images, updates, rows, hours, memory and disk of a run; exit code 1 if it cannot fit."""
    from ...params import load_everything
    from .estimate import make_plan
    from .verdict import problems

    everything = load_everything(params)
    try:
        with uncollected():
            found = make_plan(everything, device)
    except KeyError as error:
        raise typer.BadParameter(f"--device: {error.args[0]}") from None
    wrong = problems(found)
    if as_json:
        print(json.dumps(as_dict(found, wrong), indent=2))
    else:
        show(found, wrong)
    if wrong:
        sys.exit(1)


def as_dict(plan: Plan, wrong: list[Problem]) -> dict[str, Any]:
    """The whole plan as JSON values: seconds, bytes, FLOP/s."""
    work = {name: value for name, value in asdict(plan.work).items() if name != "stages"}
    stages = {
        name: asdict(stage.work)
        | {
            "flops": stage.flops,
            "seconds": stage.seconds,
            "peak_bytes": stage.memory.peak,
            "disk_bytes": _disk(plan, name),
        }
        for name, stage in plan.stages.items()
    }
    costs = {name: value for name, value in asdict(plan.costs).items() if name not in ("architecture", "sizes", "kv")}
    return {
        "fits": not wrong,
        "problems": [str(problem) for problem in wrong],
        "model": {
            "name": plan.costs.architecture.name,
            "assumed": plan.costs.architecture.assumed,
            "dtype": plan.dtype,
            **costs,
        },
        "device": asdict(plan.device),
        "work": work,
        "stages": stages,
        "start_up_seconds": plan.start_up,
        "round_seconds": plan.round_seconds,
        "seconds": plan.seconds,
        "disk": {
            "round_bytes": plan.disk.of_round(plan.work.kept_kv),
            "copies": plan.disk.copies,
            "need_bytes": plan.disk.need(plan.work.rounds, plan.work.kept_kv),
            "free_bytes": plan.disk.free,
        },
    }


def show(plan: Plan, wrong: list[Problem]) -> None:
    """Print the plan."""
    from rich.console import Console
    from rich.table import Table

    for line in heading(plan):
        print(line)
    table = Table(
        "stage",
        *(
            f"{name}\n{unit}"
            for name, unit in (
                ("U-Net rows", "forward"),
                ("U-Net rows", "trained"),
                ("work", "PFLOP"),
                ("time", ""),
                ("disk", "GiB"),
                ("peak memory", "GiB"),
                ("batch", ""),
            )
        ),
    )
    for column in table.columns[1:-1]:
        column.justify = "right"
    for name, stage in plan.stages.items():
        table.add_row(name, *_cells(plan, name, stage))
    table.add_section()
    for name, times, time, disk in _totals(plan):
        rows = [times * sum(getattr(s.work, key) for s in plan.stages.values()) for key in ("rows", "trained_rows")]
        flops = times * sum(s.flops for s in plan.stages.values())
        table.add_row(
            name, *(f"{count:,}" for count in rows), petaflops(flops), duration(time), f"{disk / GIB:.3g}", "", ""
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    for line in verdict(plan, wrong):
        print(line)


def heading(plan: Plan) -> list[str]:
    """One line each for model, device, round and run."""
    work, costs, device = plan.work, plan.costs, plan.device
    source = "assumed from the name" if costs.architecture.assumed else "from its configuration"
    speed = (
        ""
        if device.forward is None or device.training is None
        else (f"{device.forward / TERA:.3g} TFLOP/s forward, {device.training / TERA:.3g} training: ")
    )
    return [
        f"model   {costs.architecture.name} ({source}), {plan.dtype}; a U-Net row is {costs.row_flops / GIGA:,.1f} "
        f"GFLOP, a trained row {costs.trained_row_flops / GIGA:,.1f}",
        f"device  {device.name}, {device.memory / GIB:.1f} GiB",
        f"speed   {speed}{device.basis}; a stage starts in {plan.start_up:.0f} s",
        f"round   {work.prompts} prompts, {work.images} images, {work.pairs} pairs, {work.targets} targets; "
        f"{work.updates} optimizer updates, {work.rows_per_update:,} rows each",
        f"run     {work.rounds} rounds, {work.rounds * work.images:,} images, {work.rounds * work.updates} updates",
    ]


def verdict(plan: Plan, wrong: list[Problem]) -> list[str]:
    """The needed disk, and whether everything fits."""
    disk, work = plan.disk, plan.work
    kept = f"; keys and values of {work.kept_kv} references {work.kept_kv * disk.of_reference / GIB:.3g} GiB a round"
    return [
        f"disk    {disk.need(work.rounds, work.kept_kv) / GIB:.3g} GiB for the run, {disk.free / GIB:.3g} GiB free here"
        f"{', with the copy in the cache of DVC' if disk.copies == 2 else ''}{kept if work.kept_kv else ''}",
        *(["verdict it fits"] if not wrong else [f"verdict does not fit: {problem}" for problem in wrong]),
    ]


def duration(seconds: float | None) -> str:
    """A duration in a readable unit."""
    if seconds is None:
        return "unknown"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def petaflops(flops: int) -> str:
    """1e15 operations, to three digits."""
    return f"{flops / PETA:,.0f}" if flops >= 1000 * PETA else f"{flops / PETA:.3g}"


def _cells(plan: Plan, name: str, stage: Stage) -> list[str]:
    memory = stage.memory
    return [
        f"{stage.work.rows:,}",
        f"{stage.work.trained_rows:,}",
        petaflops(stage.flops),
        duration(stage.seconds),
        f"{_disk(plan, name) / GIB:.2g}",
        f"{memory.peak / GIB:.1f}",
        f"{memory.knob} {memory.batch}" if memory.knob else "",
    ]


def _disk(plan: Plan, stage: str) -> int:
    """Bytes that a stage leaves, its copy in DVC's cache included."""
    kept = plan.work.kept_kv * plan.disk.of_reference if stage == "extract" else 0
    return plan.disk.copies * (plan.disk.stages.get(stage, 0) + kept)


def _totals(plan: Plan) -> list[tuple[str, int, float | None, int]]:
    work, disk = plan.work, plan.disk
    return [
        ("a round", 1, plan.round_seconds, disk.of_round(work.kept_kv)),
        (f"{work.rounds} rounds", work.rounds, plan.seconds, work.rounds * disk.of_round(work.kept_kv)),
    ]
