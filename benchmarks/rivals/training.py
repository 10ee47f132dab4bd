"""Training loops as D3PO and ddpo-pytorch describe them: one image at one step in a forward, gradients accumulated."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dfusion_core.diffusion import ddim
from dfusion_core.models.lora import trainable
from dfusion_core.models.policy import Policy
from dfusion_core.models.text import Text
from dfusion_core.params.sections import Train
from dfusion_core.training.trajectories import Pairs


class Loop:
    """AdamW on the adapter, one optimizer step an inner epoch; remembers each step's gradient (parameter,)."""

    def __init__(self, policy: Policy, train: Train) -> None:
        self.policy, self.train = policy, train
        self.parameters = list(trainable(policy.unet).values())
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=train.learning_rate,
            betas=train.betas,
            eps=train.epsilon,
            weight_decay=train.weight_decay,
        )
        self.gradients: list[Tensor] = []

    def step(self) -> None:
        """Clip, remember, update."""
        torch.nn.utils.clip_grad_norm_(self.parameters, self.train.clip_norm)
        self.gradients.append(torch.cat([p.grad.flatten().cpu() for p in self.parameters]))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def log_prob(policy: Policy, x: Tensor, i: int, text: Text) -> Tensor:
    """Eq. (1): log p of step i of one trajectory (T + 1, c, h, w), from a forward of its own."""
    x_t, x_prev = (x[k][None].to(policy.device) for k in (i, i + 1))
    mean = ddim.mean(policy.schedule, i, x_t, policy.predict_noise(x_t, i, text))
    return ddim.log_prob(x_prev, mean, policy.schedule.std[i])[0]


def d3po(policy: Policy, reference: Policy, pairs: Pairs, train: Train) -> list[Tensor]:
    """Eq. (6) with a second, frozen model: four U-Net calls of batch 1 (two rows each) for every pair and step.

    The loss is the mean over the terms in which winner and loser differ; the others are zero, and are computed all the
    same. Returns the gradients, one for each inner epoch.
    """
    loop, T = Loop(policy, train), pairs.num_steps
    text = policy.embed(pairs.prompts)
    terms = int((T - pairs.first_index).sum())
    for _ in range(train.inner_epochs):
        for k in range(len(pairs)):
            for i in range(T):
                ratio = []
                for x in (pairs.winner[k], pairs.loser[k]):
                    with torch.no_grad():
                        old = log_prob(reference, x, i, text)
                    ratio.append((log_prob(policy, x, i, text) - old).exp())
                (-logsigmoid(train.dpo_beta * (ratio[0] - ratio[1])) / terms).backward()
        loop.step()
    return loop.gradients


def ddpo(policy: Policy, pairs: Pairs, log_prob_old: Tensor, train: Train) -> list[Tensor]:
    """Eq. (8) with the log-probs seen while sampling (2, P, T): one U-Net call of batch 1 for every image and step.

    Returns the gradients, one for each inner epoch.
    """
    loop, T = Loop(policy, train), pairs.num_steps
    text = policy.embed(pairs.prompts)
    for _ in range(train.inner_epochs):
        for which, images in enumerate((pairs.winner, pairs.loser)):
            for k, x in enumerate(images):
                A = float(pairs.advantage[which, k])
                for i in range(T):
                    ratio = (log_prob(policy, x, i, text) - log_prob_old[which, k, i].to(policy.device)).exp()
                    clipped = ratio.clamp(1 - train.ratio_clip, 1 + train.ratio_clip)
                    (torch.maximum(-A * ratio, -A * clipped) / (len(pairs) * T)).backward()
        loop.step()
    return loop.gradients
