"""`python -m benchmarks`: measure the gates of docs/benchmarks.md, print a table, write JSON."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

MODELS = ("micro", "mid", "sd21")
# steps, images, targets, pairs, micro_batch, repeats; of mid and sd21 as much as one machine can hold
FULL = {"micro": (20, 8, 2, 2, 6, 5), "mid": (10, 1, 1, 1, 3, 3), "sd21": (20, 16, 4, 2, 9, 3)}
QUICK = (10, 1, 1, 1, 3, 1)
MID_SIDE = 32  # of mid's latents; SD's own, 64, takes a CPU five times as long


def main() -> int:
    """0 where no gate was missed and every check held, else 1."""
    options = parse(sys.argv[1:])
    import torch

    from .bench import Bench, Sizes
    from .gates import DEFAULT, GATES, run_gates
    from .models import source
    from .report import commit, show, write_report

    wanted = (
        DEFAULT
        if options.gates is None
        else tuple(GATES)
        if options.gates == "all"
        else tuple(options.gates.split(","))
    )
    if unknown := [name for name in wanted if name not in GATES]:
        print(f"error: there is no gate {', '.join(unknown)}; there is {', '.join(GATES)}.", file=sys.stderr)
        return 2
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("error: there is no GPU here; leave --device out.", file=sys.stderr)
        return 2
    if options.dtype == "auto":  # as in params.yaml
        options.dtype = "fp16" if device.type == "cuda" else "fp32"
    torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32 here: the exactness checks rest on it
    chosen = QUICK if options.quick else FULL[options.model]
    sizes = Sizes(*chosen[:-1], options.repeats or chosen[-1])
    bench = Bench(source(options.model, options.side, options.dtype), sizes, device)
    file = options.out or Path("results", "benchmarks", f"{options.model}-{device.type}.json")
    settings = vars(options) | {"out": file.name, "sizes": vars(sizes)}
    results = []
    commit()  # that of the code which is loaded now
    for result in run_gates(wanted, bench):
        print(f"{result.gate}: {result.verdict}", file=sys.stderr, flush=True)
        results.append(result)
        write_report(file, results, settings, device)  # after each, so that an interruption leaves the ones before
    show(results)
    print(f"All figures are in {file}.")
    return int(any(result.verdict in ("missed", "not exact") for result in results))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--gates", help="names with commas between, as P1,P4, or all; by default P1 to P16")
    parser.add_argument(
        "--model",
        choices=MODELS,
        default="micro",
        help="the built-in U-Net, SD's topology with 80 M random weights, or SD 2.1's size (for a GPU)",
    )
    parser.add_argument("--side", type=int, default=MID_SIDE, help="height and width of mid's latents")
    parser.add_argument("--repeats", type=int, help="timed runs of each side; one more warms up")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype",
        choices=("auto", "fp32", "fp16", "bf16"),
        default="auto",
        help="of what is timed: auto is fp16 on a GPU, fp32 on a CPU. Checks are in fp32",
    )
    parser.add_argument("--quick", action="store_true", help="one repeat at the smallest sizes: does everything run")
    parser.add_argument("--out", type=Path, help="the JSON file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
