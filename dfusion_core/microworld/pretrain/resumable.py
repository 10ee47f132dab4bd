"""Resumable training."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

EVERY = 100  # steps between checkpoints


class Progress:
    """Checkpoints of a model, its averaged weights and AdamW's moments in one safetensors file; a line at each.

    The batch of a step must be a function of its number.
    """

    def __init__(
        self, file: Path, model: torch.nn.Module, average: torch.nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        self.file, self.modules, self.optimizer = file, {"model": model, "average": average}, optimizer
        self.done, self.losses, self.started = 0, list[float](), time.monotonic()

    def __enter__(self) -> Progress:
        if self.file.exists():
            found = load_file(self.file)
            for name, module in self.modules.items():
                module.load_state_dict(_below(found, name))
            self._load_moments(_below(found, "optimizer"))
            with safe_open(self.file, "pt") as opened:
                self.done = int(opened.metadata()["done"])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """No clean-up: steps after the last checkpoint are repeated."""

    def remaining(self, steps: int) -> Iterator[int]:
        """Numbers of the remaining steps."""
        yield from range(self.done, steps)

    def say(self, step: int, steps: int, loss: float) -> None:
        """Count a step; at every EVERYth and the last one print the mean loss and write the checkpoint."""
        self.losses.append(loss)
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            mean, seconds = sum(self.losses) / len(self.losses), time.monotonic() - self.started
            print(f"step {step + 1}/{steps} loss {mean:.4f} ({seconds:.0f} s)", flush=True)
            self.losses.clear()
            self.save(step + 1)

    def save(self, done: int) -> None:
        """Write the checkpoint atomically."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"{name}.{key}": value
            for name, module in self.modules.items()
            for key, value in module.state_dict().items()
        }
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{key}": value for key, value in moments.items()}
        new = self.file.with_suffix(".new")
        save_file({name: value.contiguous() for name, value in tensors.items()}, new, {"done": str(done)})
        os.replace(new, self.file)

    def _load_moments(self, found: dict[str, torch.Tensor]) -> None:
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in found.items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
