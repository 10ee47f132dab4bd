"""The training loop shared by all pretraining steps, on a CPU or a GPU."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch

from .settings import settings

WORKERS = 2  # shards per batch; fixed, because the content of a shard depends on its number
Batch = dict[str, torch.Tensor]
Gradients = list[torch.Tensor]


def warmup_cosine(step: int, steps: int, warmup: int = 100) -> float:
    """Learning-rate factor: linear up over ``warmup`` steps, then half a cosine down to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + torch.cos(torch.tensor((step - warmup) / max(1, steps - warmup) * torch.pi)).item())


def fit(
    parameters: Iterable[torch.nn.Parameter],
    batch_at: Callable[[int], Batch],
    loss_of: Callable[[Batch], torch.Tensor],
    *,
    steps: int,
    lr: float,
    weight_decay: float = 0.0,
    after_step: Callable[[int], None] = lambda step: None,
    name: str = "",
    merged: bool = True,
) -> None:
    """Minimise ``loss_of(batch_at(number))`` by AdamW with gradient clipping at 1; prints a line every 100 steps.

    A step's gradient is the mean over the shards ``step * WORKERS`` and following. ``batch_at`` draws a shard on the
    CPU as a function of its number; ``loss_of`` takes tensors on the device of the parameters. ``merged``: the
    mean of two shards' losses is the loss of their union; a GPU then computes them as one batch.
    """
    weights = [p for p in parameters if p.requires_grad]
    steps = min(steps, settings().most_steps)
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.99))
    started, running = time.monotonic(), 0.0
    with _gradients(weights, batch_at, loss_of, merged) as gradients_at:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * warmup_cosine(step, steps)
            loss, found = gradients_at(step)
            for weight, gradient in zip(weights, found, strict=True):
                weight.grad = gradient
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            after_step(step)
            if step == 0 or (step + 1) % 100 == 0:
                running = float(loss) if step == 0 else 0.5 * running + 0.5 * float(loss)
                seconds = time.monotonic() - started
                print(f"{name} step {step + 1}/{steps} loss {running:.4f} ({seconds:.0f} s)", flush=True)


def _gradients(
    weights: list[torch.nn.Parameter],
    batch_at: Callable[[int], Batch],
    loss_of: Callable[[Batch], torch.Tensor],
    merged: bool,
) -> Threads | Device:
    on_cpu = weights[0].device.type == "cpu"
    return Threads(weights, batch_at, loss_of) if on_cpu else Device(weights, batch_at, loss_of, merged)


class Threads:
    """One thread per shard with single-threaded operators. For a small model this is faster than parallel
    operators, and less sensitive to other programs."""

    def __init__(
        self,
        weights: list[torch.nn.Parameter],
        batch_at: Callable[[int], Batch],
        loss_of: Callable[[Batch], torch.Tensor],
    ) -> None:
        self.weights, self.batch_at, self.loss_of = weights, batch_at, loss_of
        self.pool = ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1))

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()

    def shard(self, number: int) -> tuple[float, tuple[torch.Tensor, ...]]:
        """Loss and gradients of one shard."""
        torch.set_num_threads(1)
        loss = self.loss_of(self.batch_at(number))
        return loss.item(), torch.autograd.grad(loss, self.weights)

    def __call__(self, step: int) -> tuple[float, Gradients]:
        """Mean loss and gradients of a step's shards, added in their order."""
        shards = list(self.pool.map(self.shard, range(step * WORKERS, (step + 1) * WORKERS)))
        together = zip(*(grads for _, grads in shards), strict=True)
        return sum(loss for loss, _ in shards) / WORKERS, [sum(p[1:], start=p[0]) / WORKERS for p in together]


class Device:
    """The shards of a step on a GPU, the whole step as one captured graph: its kernels are shorter than their launch.

    Batches are drawn some steps ahead, on the CPU.
    """

    AHEAD = 16

    def __init__(
        self,
        weights: list[torch.nn.Parameter],
        batch_at: Callable[[int], Batch],
        loss_of: Callable[[Batch], torch.Tensor],
        merged: bool,
    ) -> None:
        self.weights, self.batch_at, self.loss_of, self.merged = weights, batch_at, loss_of, merged
        self.pool = ThreadPoolExecutor(2)
        self.device = weights[0].device
        self.coming = {step: self.pool.submit(self.draw, step) for step in range(self.AHEAD)}
        self.static = [{k: v.to(self.device) for k, v in batch.items()} for batch in self.draw(0)]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.loss, self.found = torch.zeros(()), list[torch.Tensor]()

    def __enter__(self) -> Device:
        try:
            self.capture()
        except RuntimeError as error:  # slower, with equal results
            print(f"no graph: {error}", flush=True)
            self.graph = None
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def draw(self, step: int) -> list[Batch]:
        """The batches of a step: one, or one per shard."""
        shards = [self.batch_at(number) for number in range(step * WORKERS, (step + 1) * WORKERS)]
        if self.merged:
            shards = [{key: torch.cat([shard[key] for shard in shards]) for key in shards[0]}]
        return [{key: value.pin_memory() for key, value in shard.items()} for shard in shards]

    def run(self) -> None:
        """Loss and gradients of the static batches."""
        losses = [self.loss_of(batch) for batch in self.static]
        self.loss = torch.stack(losses).mean()
        self.found = list(torch.autograd.grad(self.loss, self.weights))

    def capture(self) -> None:
        """Record one step, after some warm-up steps on a separate stream."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.run()
        self.graph = graph

    def __call__(self, step: int) -> tuple[torch.Tensor, Gradients]:
        """Mean loss and gradients of a step's shards; both are overwritten by the next step."""
        batches = self.coming.pop(step).result()
        self.coming[step + self.AHEAD] = self.pool.submit(self.draw, step + self.AHEAD)
        for kept, batch in zip(self.static, batches, strict=True):
            for key, value in batch.items():
                kept[key].copy_(value, non_blocking=True)
        if self.graph is None:
            self.run()
        else:
            self.graph.replay()
        return self.loss, self.found


def rows_at(step: int, batch: int, count: int, seed: int = 0) -> torch.Tensor:
    """Row numbers (batch,) of a shard: a function of its number."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return torch.randint(0, count, (batch,), generator=generator)
