"""The plan: work, time, memory and disk of every stage of a round, and of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...prompts.reading import load_prompts
from .devices import Device, named_device
from .disk import Disk, count_disk
from .memory import ON_CPU, ON_GPU, Memory, stage_memory
from .startup import start_up_seconds
from .workload import Work, Workload, workload

if TYPE_CHECKING:
    from ...params.sections import Everything
    from .costs import Costs


@dataclass(frozen=True)
class Stage:
    """A stage of one round. ``seconds`` is None if the device's speed is unknown."""

    work: Work
    flops: int
    seconds: float | None
    memory: Memory


@dataclass(frozen=True)
class Plan:
    """Everything that `dfusion plan` prints. ``start_up``: seconds that every stage takes before its first row."""

    device: Device
    dtype: str
    work: Workload
    costs: Costs
    stages: dict[str, Stage]
    start_up: float
    disk: Disk

    @property
    def round_seconds(self) -> float | None:
        """Seconds of one round."""
        known = [stage.seconds for stage in self.stages.values() if stage.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None

    @property
    def seconds(self) -> float | None:
        """Seconds of the run: its rounds, the evaluation of the base model, ``init`` and ``summary``."""
        base, one = self.stages["evaluate"].seconds, self.round_seconds
        return None if base is None or one is None else self.work.rounds * one + base + 2 * self.start_up


def make_plan(params: Everything, device_name: str = "") -> Plan:
    """The plan for a named device, or for the one of the parameters on this machine, measured.

    Raises KeyError for an unknown name, and DFusionError for invalid parameters.
    """
    start_up = start_up_seconds()
    from ...models.device import pick_dtype
    from .costs import count_costs
    from .probe import here, measured_device

    check_thresholds(params)
    where = here(params.model.device, device_name)
    dtype = pick_dtype(params.model.dtype, where)
    named = named_device(device_name, dtype) if device_name else None
    costs = count_costs(params, dtype, where)
    work = workload(params, costs.architecture.halves)
    device = named or measured_device(params, costs, where, dtype)
    memory = stage_memory(params, costs, ON_GPU if where.type == "cuda" else ON_CPU)
    stages = {
        name: Stage(one, flops(one, costs), seconds(one, costs, device, start_up), memory[name])
        for name, one in work.stages.items()
    }
    return Plan(
        device, str(dtype).removeprefix("torch."), work, costs, stages, start_up, count_disk(work, costs, params)
    )


def check_thresholds(params: Everything) -> None:
    """Raise MaskError before sampling if a prompt has no thresholds and needs them."""
    from ...extraction.masks import thresholds

    for prompt in load_prompts(params.prompts.file).first(params.prompts.train_count, None).train:
        thresholds(prompt, params.extract)


def flops(work: Work, costs: Costs) -> int:
    """FLOPs of a stage. Text encoders are not counted: each prompt is encoded once."""
    return without_gradients(work, costs) + work.trained_rows * costs.trained_row_flops


def without_gradients(work: Work, costs: Costs) -> int:
    """FLOPs of sampling, decoding and scoring."""
    return work.rows * costs.row_flops + work.decoded * costs.decode_flops + work.scored * costs.score_flops


def seconds(work: Work, costs: Costs, device: Device, start_up: float) -> float | None:
    """Seconds of a stage: its start, and its FLOPs at the device's speeds."""
    if device.forward is None or device.training is None:
        return None
    trained = work.trained_rows * costs.trained_row_flops
    return start_up + without_gradients(work, costs) / device.forward + trained / device.training
