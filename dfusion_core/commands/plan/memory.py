"""Peak memory of each stage on the device: weights, activations, what autograd saves, optimizer state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...params.sections import Everything
    from .costs import Costs

GIB = 2**30
# Bytes for each weight of the adapter: itself, its gradient and AdamW's two moments, in fp32 or in 8 bits. Of small
# matrices, which stay in 32 bits, are not counted.
ADAM = {"adamw": 4 * 4, "adamw_8bit": 2 * 4 + 2}


@dataclass(frozen=True)
class Overhead:
    """Memory beside tensors: ``base`` bytes of libraries or a GPU's context, and the allocator's ``factor``."""

    base: int
    factor: float


ON_GPU = Overhead(GIB // 2, 1.1)  # an assumption
ON_CPU = Overhead(int(0.9 * GIB), 1.6)  # measured on stages of the micro-world (docs/planning.md)


@dataclass(frozen=True)
class Memory:
    """Bytes of a stage's peak: ``fixed`` for any batch, and ``each`` per unit of ``knob``, the key of
    params.yaml that sets the batch (empty if there is none)."""

    fixed: int
    each: int
    batch: int
    knob: str
    overhead: Overhead = ON_GPU

    @property
    def peak(self) -> int:
        """Bytes at the set batch."""
        return self.overhead.base + int(self.overhead.factor * (self.fixed + self.batch * self.each))

    def largest(self, limit: int) -> int:
        """The largest batch whose peak is at most ``limit`` bytes; 0 if none is."""
        room = (limit - self.overhead.base) / self.overhead.factor - self.fixed
        return max(0, int(room // self.each)) if self.each else 0


def stage_memory(params: Everything, costs: Costs, overhead: Overhead = ON_GPU) -> dict[str, Memory]:
    """The peak of every stage."""
    model = costs.unet_weights + costs.other_weights
    # With slicing one picture is decoded at a time, whatever the batch.
    once, decoding = (costs.decode_working, 0) if params.model.vae_slicing else (0, costs.decode_working)
    halves = costs.architecture.halves
    drawing = max(halves * costs.row_working, decoding)  # an image: its rows, later a picture
    # A target's rows and its reference's; stored keys and values take less than the rows that they replace.
    fusing = max(2 * halves * costs.row_working, decoding)
    training = 2 * halves * (costs.trained_row_saved + costs.row_working)  # winner and loser
    adam = ADAM[params.train.optimizer] * costs.adapter_parameters
    scoring = Memory(costs.reward_weights, costs.score_working, params.reward.batch_size, "reward.batch_size")
    found = {
        "sample": Memory(model + once, drawing, params.sample.batch_size, "sample.batch_size"),
        "score": scoring,
        "extract": Memory(model + halves * costs.row_working, 0, 1, ""),
        "fuse": Memory(model + once, fusing, params.fuse.batch_size, "fuse.batch_size"),
        "adopt": scoring,
        "train": Memory(model + adam, training, params.train.micro_batch, "train.micro_batch"),
        # The reward is loaded beside the model after the images are made.
        "evaluate": Memory(
            model + once + costs.reward_weights, drawing, params.evaluate.batch_size, "evaluate.batch_size"
        ),
    }
    return {name: replace(memory, overhead=overhead) for name, memory in found.items()}
