"""Eq. (1) and (6) of one pair at one step, in float64 around the U-Net's output, with diffusers' table of alphas."""

from __future__ import annotations

import math

import torch
from diffusers import DDIMScheduler
from naive_reference import guided, one_row
from random_models import normal
from torch import Tensor

from dfusion_core.models.policy import Policy
from dfusion_core.models.single_file import SCHEDULER
from dfusion_core.models.text import Text
from dfusion_core.training.trajectories import Pairs

T, BETA = 20, 0.1


class NaivePair:
    """Winner and loser with random latents of one step, each with a next state drawn from the policy as it is now."""

    def __init__(self, policy: Policy, step: int, side: int, texts: tuple[Text, Text]) -> None:
        self.policy, self.step, self.texts = policy, step, texts
        abar = DDIMScheduler(**{k: v for k, v in SCHEDULER.items() if k != "_class_name"}).alphas_cumprod.double()
        timestep = 951 - 50 * step
        self.a, self.b = float(abar[timestep]), float(abar[timestep - 50])
        self.std = math.sqrt((1 - self.b) / (1 - self.a) * (1 - self.a / self.b))
        self.x = normal(3, 2, 4, side, side)
        mean = self.mean()
        self.x_next = (mean + self.std * normal(4, 2, 4, side, side)).float()
        self.old = self.log_prob(mean)

    @torch.no_grad()
    def mean(self) -> Tensor:
        """Eq. (1): the mean of the next state, (2, c, h, w)."""
        noise = torch.cat(
            [
                guided(self.policy, *(one_row(self.policy, x[None], self.step, text) for text in self.texts))
                for x in self.x
            ]
        ).double()
        x_0 = (self.x.double() - math.sqrt(1 - self.a) * noise) / math.sqrt(self.a)
        return math.sqrt(self.b) * x_0 + math.sqrt(1 - self.b - self.std**2) * noise

    def log_prob(self, mean: Tensor) -> Tensor:
        """Eq. (1): log p of the next states, the mean over elements, (2,)."""
        squares = ((self.x_next.double() - mean) / self.std) ** 2
        return -squares.flatten(1).mean(1) / 2 - math.log(self.std) - math.log(2 * math.pi) / 2

    def loss(self) -> float:
        """Eq. (6), against the policy that the pair was made with."""
        ratio = (self.log_prob(self.mean()) - self.old).exp()
        return math.log(1 + math.exp(-BETA * float(ratio[0] - ratio[1])))

    def pairs(self, prompt: str) -> Pairs:
        """The training set: nothing but this pair, which differs from this step on."""
        states = torch.zeros(2, 1, T + 1, *self.x.shape[1:])
        states[:, 0, self.step], states[:, 0, self.step + 1] = self.x, self.x_next
        seen = torch.full((1, T), math.nan)
        seen[0, self.step] = self.old[1]
        return Pairs(
            winner=states[0],
            loser=states[1],
            prompts=[prompt],
            prompt_row=torch.tensor([0]),
            first_index=torch.tensor([self.step]),
            log_prob=seen,
            advantage=torch.zeros(2, 1),
        )
