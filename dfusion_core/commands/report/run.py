"""The run of a report: its finished rounds, their numbers and parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...errors import MissingStage
from ...evaluation.results import Results, read_results
from ...evaluation.tables import images_seen
from ...params import Params, load_params
from ...params.rounds import INIT, in_order, lineage
from ...rewards.identity import describe
from ...store.manifest import MANIFEST
from ...store.paths import output
from ...store.reading import StageData, read_stage
from ..manifests import Parameter, parameters

ROUNDS_SHOWN = 8  # with pictures; every round is in the tables and curves


@dataclass(frozen=True)
class Run:
    """A run. ``rounds`` are the finished ones, in order; ``unfinished`` the others in params.yaml."""

    rounds: list[str]
    unfinished: list[str]
    previous: dict[str, str]
    results: Results
    parameters: list[Parameter]

    @cached_property
    def shown(self) -> list[str]:
        """All rounds, or of many a selection at equal distances, from the first to the last."""
        places = np.linspace(0, len(self.rounds) - 1, min(ROUNDS_SHOWN, len(self.rounds))).round().astype(int)
        return [self.rounds[place] for place in places]

    @cached_property
    def images_seen(self) -> dict[str, int]:
        """Images sampled up to each round."""
        return images_seen(self.previous)

    @property
    def way(self) -> list[str]:
        """The rounds from the base model to the last one, without branches."""
        return lineage(self.rounds[-1], self.previous)

    @property
    def last(self) -> StageData:
        """The training of the last round."""
        return read_stage("train", self.rounds[-1])

    def value(self, key: str) -> str:
        """The value of a parameter in the run, as text."""
        return next((one.value for one in self.parameters if one.row.key == key), "not known").strip('"')

    @property
    def title(self) -> str:
        """A title that identifies the run."""
        return (
            f"D-Fusion run: {self.value('algo')} on {self.value('pairs')} pairs, {len(self.rounds)} rounds, seed "
            f"{self.value('seed')}"
        )

    @property
    def reward(self) -> str:
        """The models that scored."""
        return describe(self.results.reward)


def read_run() -> Run:
    """The run in this folder. Raises MissingStage naming the command to run first."""
    params = load_params("rounds")
    names = in_order(params)
    rounds = [name for name in names if (output("evaluate", name) / MANIFEST).is_file()]
    if not rounds:
        raise MissingStage("report: no round is finished: there is no runs/ROUND/evaluate.", "Run 'dvc repro'.")
    return Run(
        rounds,
        [name for name in names if name not in rounds],
        previous_rounds(params, rounds),
        read_results(rounds),
        parameters(rounds),
    )


def previous_rounds(params: Params, rounds: list[str]) -> dict[str, str]:
    """The round whose adapter each round was trained from, by the digests in the manifests, or by params.yaml
    if no finished round has it."""
    digests = {read_stage("train", name).manifest["digest"]: name for name in (INIT, *rounds)}
    found = {}
    for name in rounds:
        adapter = read_stage("train", name).manifest["ingredients"]["inputs"].get("adapter")
        found[name] = digests.get(adapter, params.rounds[name].prev)
    return found
