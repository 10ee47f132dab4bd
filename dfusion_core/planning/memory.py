"""Peak memory of each stage on the device: weights, activations, what autograd saves, optimizer state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..params.sections import Everything
    from .costs import Costs

ALLOCATOR = 1.1  # what torch's allocator holds, over what tensors fill
CONTEXT = 2**29  # bytes of libraries and of a GPU's context
ADAM = 4 * 4  # bytes for each weight of the adapter: itself, its gradient and AdamW's two moments, fp32


@dataclass(frozen=True)
class Memory:
    """Bytes of a stage's peak: ``fixed`` whatever the batch, and ``each`` for one more unit of ``knob``, the key of
    params.yaml that sets the batch (empty where none does)."""

    fixed: int
    each: int
    batch: int
    knob: str

    @property
    def peak(self) -> int:
        """Bytes at the batch that is set."""
        return CONTEXT + int(ALLOCATOR * (self.fixed + self.batch * self.each))

    def largest(self, limit: int) -> int:
        """The largest batch whose peak is at most ``limit`` bytes; 0 if none is."""
        room = (limit - CONTEXT) / ALLOCATOR - self.fixed
        return max(0, int(room // self.each)) if self.each else 0


def stage_memory(params: Everything, costs: Costs) -> dict[str, Memory]:
    """The peak of every stage."""
    model = costs.unet_weights + costs.other_weights
    drawing = max(2 * costs.row_working, costs.decode_working)  # an image: two rows, later a picture
    # A target's two rows and its reference's; stored keys and values take less than the rows that they replace.
    fusing = max(4 * costs.row_working, costs.decode_working)
    training = 4 * (costs.trained_row_saved + costs.row_working)  # winner and loser, two rows each
    scoring = Memory(costs.reward_weights, costs.score_working, params.reward.batch_size, "reward.batch_size")
    return {
        "sample": Memory(model, drawing, params.sample.batch_size, "sample.batch_size"),
        "score": scoring,
        "extract": Memory(model + 2 * costs.row_working, 0, 1, ""),
        "fuse": Memory(model, fusing, params.fuse.batch_size, "fuse.batch_size"),
        "adopt": scoring,
        "train": Memory(model + ADAM * costs.adapter_parameters, training, params.train.micro_batch,
                        "train.micro_batch"),
        # The reward is loaded beside the model, once the images are there.
        "evaluate": Memory(model + costs.reward_weights, drawing, params.evaluate.batch_size, "evaluate.batch_size")}
