"""Training that goes on where it was interrupted."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

EVERY = 100  # steps between checkpoints


class Progress:
    """Checkpoints of a model, its averaged weights and its optimizer in one file; a line at each.

    What a step learns from must be a function of its number.
    """

    def __init__(
        self, file: Path, model: torch.nn.Module, average: torch.nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        self.file = file
        self.parts: dict[str, Any] = {"model": model, "average": average, "optimizer": optimizer}
        self.done, self.losses, self.started = 0, list[float](), time.monotonic()

    def __enter__(self) -> Progress:
        if self.file.exists():
            found = torch.load(self.file, map_location="cpu", weights_only=True)
            for name, part in self.parts.items():
                part.load_state_dict(found[name])
            self.done = int(found["done"])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing to do: an unfinished stretch is done again."""

    def remaining(self, steps: int) -> Iterator[int]:
        """The numbers of the steps still to do."""
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
        """Write the checkpoint beside the old one, then put it in its place."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        new = self.file.with_suffix(".new")
        torch.save({"done": done} | {name: part.state_dict() for name, part in self.parts.items()}, new)
        os.replace(new, self.file)
