"""The training loop shared by all pretraining steps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch

WORKERS = 2  # shards of a batch, one thread each; fixed, because it decides the order in which gradients are added


def warmup_cosine(step: int, steps: int, warmup: int = 100) -> float:
    """Learning-rate factor: linear up over ``warmup`` steps, then half a cosine down to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + torch.cos(torch.tensor((step - warmup) / max(1, steps - warmup) * torch.pi)).item())


def fit(
    parameters: Iterable[torch.nn.Parameter],
    loss_at: Callable[[int], torch.Tensor],
    *,
    steps: int,
    lr: float,
    weight_decay: float = 0.0,
    after_step: Callable[[int], None] = lambda step: None,
    name: str = "",
) -> None:
    """Minimise ``loss_at`` by AdamW with gradient clipping at 1; prints a line every 100 steps.

    A step's gradient is the mean over WORKERS shards: ``loss_at(step * WORKERS + shard)``, one thread each with
    single-threaded operators. On a small model that is faster than splitting every operator over the cores, and
    it does not collapse when another program wants a core.
    """
    weights = [p for p in parameters if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.99))
    started, running = time.monotonic(), 0.0

    def shard(number: int) -> tuple[float, tuple[torch.Tensor, ...]]:
        torch.set_num_threads(1)
        loss = loss_at(number)
        return loss.item(), torch.autograd.grad(loss, weights)

    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * warmup_cosine(step, steps)
            shards = list(pool.map(shard, range(step * WORKERS, (step + 1) * WORKERS)))
            for weight, *parts in zip(weights, *(grads for _, grads in shards), strict=True):
                weight.grad = sum(parts[1:], start=parts[0]) / WORKERS
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            after_step(step)
            loss = sum(value for value, _ in shards) / WORKERS
            running = loss if step == 0 else 0.98 * running + 0.02 * loss
            if (step + 1) % 100 == 0:
                seconds = time.monotonic() - started
                print(f"{name} step {step + 1}/{steps} loss {running:.4f} ({seconds:.0f} s)", flush=True)


def rows_at(step: int, batch: int, count: int, seed: int = 0) -> torch.Tensor:
    """Row numbers (batch,) of a shard: a function of its number, so any shard can be drawn alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return torch.randint(0, count, (batch,), generator=generator)
