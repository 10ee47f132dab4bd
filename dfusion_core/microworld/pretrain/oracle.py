"""Train the oracle on drawings, decoded drawings and drawings of malformed shapes, with their labels.

reads  build/data   writes  weights/oracle
"""

from __future__ import annotations

import torch
from safetensors.torch import save_file

from ..grammar import HEADS
from ..oracle import Oracle, judge
from .augment import Pictures
from .data import load
from .loop import Batch, fit, rows_at
from .record import record
from .settings import settings

STEPS, BATCH, LR = 4_500, 32, 2e-3


def classification_loss(found: dict[str, torch.Tensor], labels: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sum over heads of the mean negative log-likelihood of the pictures that have that label (not -1).

    A head that no picture of the batch has a label for adds nothing (its mean would be 0 / 0).
    """
    losses = []
    for head in HEADS:
        summed = torch.nn.functional.nll_loss(found[head], labels[head], ignore_index=-1, reduction="sum")
        losses.append(summed / (labels[head] >= 0).sum().clamp(min=1))
    return torch.stack(losses).sum()


def with_malformed(pictures: Pictures) -> Pictures:
    """The training pictures and the malformed ones (which have no decoded twin) together."""
    images, captions, labels = load(settings().composition, "malformed")
    return Pictures(
        torch.cat([pictures.drawn, images]),
        pictures.decoded,
        pictures.captions + captions,
        {h: torch.cat([pictures.labels[h], labels[h]]) for h in labels},
    )


def main() -> None:
    """Train and save in half precision."""
    torch.manual_seed(5)
    pictures = with_malformed(Pictures.load())
    oracle = Oracle().to(settings().on)
    here = pictures.to(settings().on)

    def loss_of(batch: Batch) -> torch.Tensor:
        return classification_loss(oracle(here.show(batch)), {h: v[batch["rows"]] for h, v in here.labels.items()})

    def shard(number: int) -> Batch:
        return pictures.draw(rows_at(number, BATCH, len(pictures), seed=5), number)

    fit(oracle.parameters(), shard, loss_of, steps=STEPS, lr=LR, weight_decay=1e-2, name="oracle", merged=False)
    images, captions, _ = load(settings().composition, "held_out")
    right, _ = judge(oracle.eval().cpu(), images, captions)
    share = float(right.float().mean())
    print(f"oracle reads {share:.4f} of the held-out drawings right", flush=True)
    folder = settings().weights_folder / "oracle"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half() for k, v in oracle.state_dict().items()}, folder / "model.safetensors")
    record("oracle", folder, held_out_right=round(share, 4))


if __name__ == "__main__":
    main()
