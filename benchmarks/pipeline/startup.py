"""What the processes of a round cost before they do anything: imports, loading, DVC."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from dfusion_core.store.paths import ROUND_STAGES

from ..bench import Bench
from ..result import Result, at_most
from .clone import ROOT, call, clone, processor_seconds

LIBRARIES = "import open_clip, pandas, peft, zarr; from diffusers import StableDiffusionPipeline"
UNCOLLECTED = "from dfusion_core.runtime.entry import leave_imports_uncollected; leave_imports_uncollected()"
HERE = ROOT / "benchmarks" / "pipeline"
# Next to no work: of what such a round takes, nearly all is start-up.
LITTLE: dict[str, Any] = {
    "sample": {"num_steps": 2, "images_per_prompt": 2},
    "prompts": {"train_count": 1, "test_count": 1},
    "fuse": {"first_t": 2},
    "train": {"inner_epochs": 1, "last_t": 1, "micro_batch": 1},
    "evaluate": {"images_per_prompt": 1},
    "extract": {"keep_kv": "none"},
}


def start_up(bench: Bench) -> list[Result]:
    """The built-in model's smallest round, stage by stage; then, unless it has to be quick, a default round."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clone(folder)
        set_params(folder, LITTLE)
        little = first_round(folder)
        loading = json.loads(call(folder, sys.executable, str(HERE / "loading.py")).splitlines()[-1])
    whole = little["whole"]
    results = [
        Result(
            "startup",
            "seconds of a round with next to no work, seven stages under DVC",
            (whole,),
            note=described(little, loading),
            seconds={name: (value,) for name, value in little.items()},
        )
    ]
    if bench.sizes.repeats > 1:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            clone(folder)
            set_params(folder, {})
            default = first_round(folder)["whole"]
        results.append(
            Result(
                "startup",
                "that, over a default micro-world round",
                (whole / default,),
                at_most(0.25),
                note=f"a default round takes {default:.0f} s",
            )
        )
    return results


def imports(bench: Bench) -> list[Result]:
    """What a stage saves by importing its libraries, and ending, without garbage collection."""
    sides = {"collected": LIBRARIES, "not collected": f"{UNCOLLECTED}; {LIBRARIES}"}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(bench.sizes.repeats):
        for name, program in sides.items():
            before = processor_seconds()
            with tempfile.TemporaryDirectory() as temporary:
                call(Path(temporary), sys.executable, "-c", program, PYTHONPATH=str(ROOT))
            seconds[name].append(processor_seconds() - before)
    ratios = tuple(one / other for one, other in zip(*seconds.values(), strict=True))
    return [
        Result(
            "imports",
            "processor time of a stage's libraries, with garbage collection over without",
            ratios,
            seconds={name: tuple(values) for name, values in seconds.items()},
        )
    ]


def set_params(folder: Path, changes: dict[str, Any]) -> None:
    """The program's params.yaml with these changes, and a launcher that takes times."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, values in changes.items():
        params[section] |= values
    params["launcher"] = dict.fromkeys(params["launcher"], shlex.join([sys.executable, str(HERE / "timed.py")]))
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def first_round(folder: Path) -> dict[str, float]:
    """Seconds of each stage of r00, of its imports (``NAME imports``), of DVC beside the stages, and of all."""
    times = folder / "times.jsonl"
    call(folder, "dvc", "repro", "evaluate_base", STAGE_TIMES=str(times))
    times.unlink()
    start = time.perf_counter()
    call(folder, "dvc", "repro", "evaluate@r00", STAGE_TIMES=str(times))
    found = {"whole": time.perf_counter() - start}
    for line in times.read_text().splitlines():
        one = json.loads(line)
        found |= {one["stage"]: one["seconds"], f"{one['stage']} imports": one["imports"]}
    found["DVC"] = found["whole"] - sum(found[stage] for stage in ROUND_STAGES)
    return found


def described(found: dict[str, float], loading: dict[str, float]) -> str:
    """One line of all parts."""
    stages = ", ".join(f"{name} {found[name]:.1f} (imports {found[f'{name} imports']:.1f})" for name in ROUND_STAGES)
    return f"{stages}, DVC {found['DVC']:.1f}; loading: model {loading['model']:.1f}, reward {loading['reward']:.1f}"
