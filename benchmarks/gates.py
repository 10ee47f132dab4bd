"""Which gates there are, and what is run for each. Their numbers are those of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from .bench import Bench
from .measures.compiling import compiling
from .measures.disk import disk
from .measures.fusing import fusing
from .measures.memory import fusing_memory, training_memory
from .measures.round import whole_round
from .measures.sampling import sampling
from .measures.training import training_images, training_pairs
from .measures.utilisation import idle, utilisation
from .pipeline.planning import plan_of_default
from .pipeline.processes import two_processes
from .pipeline.rounds import cost_of_images, many_rounds, very_many_rounds
from .pipeline.startup import imports, start_up
from .result import Result

Measure = Callable[[Bench], list[Result]]


GATES: dict[str, Measure] = {
    "P1": fusing,
    "P2": fusing,
    "P3": fusing,
    "P4": fusing,
    "P5": sampling,
    "P6": sampling,
    "P7": training_pairs,
    "P8": training_images,
    "P9": training_pairs,
    "P10": utilisation,
    "P11": training_memory,
    "P12": fusing_memory,
    "P13": compiling,
    "P14": disk,
    "P15": idle,
    "P16": whole_round,
    "P17": two_processes,
    "startup": start_up,
    "imports": imports,
    "graph": many_rounds,
    "graph300": very_many_rounds,
    "images": cost_of_images,
    "plan": plan_of_default,
}
EXACT = {"P1", "P9", "P11", "P12", "P13", "P14"}  # counted: nothing is timed where no other gate is asked for
COMPARISONS = (fusing, sampling, training_pairs, training_images, whole_round)
PIPELINE = (
    "P17",
    "startup",
    "imports",
    "graph",
    "graph300",
    "images",
    "plan",
)  # through the stages; minutes, so only where they are named
DEFAULT = tuple(name for name in GATES if name not in PIPELINE)


def run_gates(wanted: tuple[str, ...], bench: Bench) -> Iterator[Result]:
    """The results of the wanted gates, in order; what several share is run once."""
    for measure in dict.fromkeys(GATES[name] for name in GATES if name in wanted):
        of_measure = {name for name in wanted if GATES[name] is measure}
        found = measured(measure, bench) if of_measure - EXACT else measure(bench.exact.with_sizes(repeats=0))
        yield from (result for result in found if result.gate in of_measure)


def measured(measure: Measure, bench: Bench) -> list[Result]:
    """In 16 bits: the times of this dtype, with what is counted and checked of the same code in fp32.

    Two ways to do the same work part in 16 bits, by rounding alone, further than any bar could tell from a mistake.
    """
    if bench.exact is bench or measure not in COMPARISONS:
        return measure(bench)
    return [
        replace(timed, checks=exact.checks) if exact.median is None else exact
        for exact, timed in zip(measure(bench.exact), measure(bench), strict=True)
    ]
