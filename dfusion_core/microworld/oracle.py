"""The oracle: a supervised classifier that decides whether a picture shows a prompt.

It is not used as a reward. Malformed shapes have the class "other", so that a blob is not classified as a shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from .grammar import HEADS, expected
from .locate import ORACLE


class Oracle(nn.Module):
    """A small convolutional network with one softmax head per label (grammar.HEADS)."""

    def __init__(self, widths: Sequence[int] = (24, 48, 96, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inner, outer in zip((3, *widths[:-1]), widths, strict=True):
            layers += [
                nn.Conv2d(inner, outer, 3, stride=2, padding=1),
                nn.GroupNorm(8, outer),
                nn.SiLU(),
                nn.Conv2d(outer, outer, 3, padding=1),
                nn.GroupNorm(8, outer),
                nn.SiLU(),
            ]
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * 16, 192), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(192, classes) for name, classes in HEADS.items()})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Log-probabilities per head, (n, classes), of pictures (n, 3, 64, 64) in [-0.5, 0.5]."""
        features = self.trunk(x)
        return {name: head(features).log_softmax(dim=1) for name, head in self.heads.items()}


def load_oracle(folder: Path = ORACLE) -> Oracle:
    """The shipped oracle in evaluation mode."""
    oracle = Oracle()
    oracle.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
    return oracle.eval().requires_grad_(False)


@torch.no_grad()
def read(oracle: Oracle, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    """Log-probabilities per head of uint8 pictures (n, 3, 64, 64)."""
    parts = [oracle(part.float() / 255 - 0.5) for part in pictures.split(256)]
    return {name: torch.cat([part[name] for part in parts]) for name in HEADS}


def judge(oracle: Oracle, pictures: torch.Tensor, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether each picture (n, 3, 64, 64) uint8 shows its prompt, (n,) bool, and its log-probability.

    A picture is right if, for every head that the prompt names, the most probable class is the named one.
    """
    found = read(oracle, pictures)
    right = torch.ones(len(prompts), dtype=torch.bool)
    log_prob = torch.zeros(len(prompts))
    for row, prompt in enumerate(prompts):
        for head, label in expected(prompt).items():
            right[row] &= bool(found[head][row].argmax() == label)
            log_prob[row] += found[head][row, label]
    return right, log_prob
