"""One round of training: AdamW on the adapter, Eq. 6, 8 or 9 over every timestep of every pair.

One optimizer step sees ``pairs_per_update`` pairs with all their timesteps (Table 3's accumulation of 320). The sum is
split into micro-batches of one fixed shape, the last padded with rows of weight zero: a row then has the same
log-prob in every pass, so that the first ratio is exactly 1.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..diffusion.steps import sensitivity
from ..diffusion.window import step_indices
from ..errors import BadNumber, NotFinite
from ..models.lora import trainable
from ..runtime.ranks import share
from .diagnostics import SEEN, Diagnostics
from .objectives import old_values, row_loss, timestep_weights
from .old_policy import OldPolicy
from .optimizer import epsilon_share, from_arrays, load_optimizer, make_optimizer, to_arrays
from .summing import add_up

if TYPE_CHECKING:
    from ..models.policy import Policy
    from ..params.sections import Algo, Train
    from .trajectories import Pairs

REMEDY = "Set model.dtype to bf16 or fp32, or lower train.learning_rate; what was trained so far is kept."
HEADROOM = 4  # powers of two by which scaled fp16 gradients stay below 1, because they grow in the backward pass


def gradient_scale(dtype: torch.dtype, elements: int) -> float:
    """Factor of the loss in the backward pass through a network of this dtype, a power of two.

    The loss is a mean over ``elements`` latent elements of all rows: at SD's size the gradient at one of them is near
    1e-8, which fp16 rounds to zero. bf16 and fp32 have enough exponents; their factor is 1.
    """
    return 2.0 ** max(0, math.floor(math.log2(elements)) - HEADROOM) if dtype == torch.float16 else 1.0


@dataclass
class Trainer:
    """Trains the adapter of ``policy`` on ``pairs``; resumable after every optimizer step."""

    policy: Policy
    pairs: Pairs
    train: Train
    seed: int
    round: str
    algo: Algo = "dpo"
    done: int = 0
    diagnostics: Diagnostics = field(default_factory=Diagnostics)

    def __post_init__(self) -> None:
        self.parameters = trainable(self.policy.unet)
        self.optimizer = make_optimizer(self.train, list(self.parameters.values()))
        self.text = self.policy.embed(self.pairs.prompts)
        T = self.pairs.num_steps
        self.old = OldPolicy(old_values(self.algo), len(self.pairs), T, self.policy.latent_shape)
        self.steps = step_indices(self.train, T)
        self.sensitivity = sensitivity(self.policy.schedule).float()
        self.weights = timestep_weights(self.train, self.sensitivity, self.steps)

    @property
    def groups(self) -> int:
        """Optimizer steps per inner epoch."""
        return -(-len(self.pairs) // self.train.pairs_per_update)

    @property
    def updates(self) -> int:
        """Optimizer steps of the round."""
        return self.groups * self.train.inner_epochs

    def remaining(self) -> Iterator[int]:
        """Numbers of the remaining optimizer steps."""
        yield from range(self.done, self.updates)

    # --- the terms of an update ---

    def rows(self, update: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(pair, step index) of every term of an update; pairs are shuffled in each inner epoch."""
        epoch, group = divmod(update, self.groups)
        key = hashlib.blake2b(f"{self.seed}/{self.round}/{epoch}".encode(), digest_size=8).digest()
        shuffle = torch.Generator().manual_seed(int.from_bytes(key, "big") >> 1)
        order = torch.randperm(len(self.pairs), generator=shuffle)
        size = self.train.pairs_per_update
        return self.terms(order[group * size : (group + 1) * size])

    def terms(self, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(pair, step index) of these pairs at all trained steps at which winner and loser differ."""
        steps = torch.tensor(self.steps)
        pair, i = chosen.repeat_interleave(len(steps)), steps.repeat(len(chosen))
        differs = i >= self.pairs.first_index[pair]
        return pair[differs], i[differs]

    def micro_batches(self, pair: torch.Tensor, i: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """(pair, step index, weight) of fixed size; the last one is padded with rows of weight 0."""
        size = self.train.micro_batch
        for start in range(0, len(pair), size):
            p, s = pair[start : start + size], i[start : start + size]
            missing = size - len(p)
            weight = torch.cat([torch.ones(len(p)), torch.zeros(missing)])
            yield torch.cat([p, p[-1:].expand(missing)]), torch.cat([s, s[-1:].expand(missing)]), weight

    def evaluate(self, pair: torch.Tensor, i: torch.Tensor) -> dict[str, torch.Tensor]:
        """Log-probs (2, row) and means (2 * row, c, h, w) of winners and losers under the plain, unfused policy.

        pair, i: (row,). Raises NotFinite, whose row is the pair.
        """
        x_t, x_prev = (torch.cat([self.pairs.winner[pair, i + k], self.pairs.loser[pair, i + k]]) for k in (0, 1))
        text = self.text[self.pairs.prompt_row[pair]].repeat(2)
        log_prob, mean = self.policy.log_prob(x_t, x_prev, i.repeat(2), text)
        self._check_log_prob(log_prob.detach().view(2, -1), pair, i)
        return {"log_prob": log_prob.view(2, -1), "mean": mean}

    # --- one optimizer step ---

    def update(self) -> None:
        """One AdamW step on the mean loss of the update's terms. Raises BadNumber, NotFinite, RatioError."""
        if self.done == 0:
            self._store_old()
        pair, i = self.rows(self.done)
        seen = torch.zeros(len(SEEN), len(pair))  # each process fills its own terms
        scale = gradient_scale(self.policy.unet.dtype, len(pair) * math.prod(self.policy.latent_shape))
        batches = list(self.micro_batches(pair, i))
        for number in share(range(len(batches))):
            p, s, weight = batches[number]
            terms = self._backward(p, s, weight, scale / len(pair))
            first, real = number * self.train.micro_batch, int(weight.sum())
            seen[:, first : first + real] = terms[:, :real]
        self._exchange(seen, scale)
        norm = self._step()
        clip = None if self.algo == "dpo" else self.train.ratio_clip
        self.diagnostics.add(
            self.done, seen, self.pairs.num_steps - i, clip, norm, epsilon_share(self.optimizer, self.parameters)
        )
        self.done += 1

    def _backward(self, pair: torch.Tensor, i: torch.Tensor, weight: torch.Tensor, scale: float) -> torch.Tensor:
        """Add the gradient of one micro-batch; returns its terms (6, row), rows as in `SEEN`."""
        now = self.evaluate(pair, i)
        mean = now["mean"]
        mean.retain_grad()
        old = self._old_for(pair, i, now)
        advantage = self.pairs.advantage[:, pair].to(self.policy.device)
        loss = row_loss(self.algo, self.train, now, old, advantage, self.policy.schedule.std[i])
        counted = weight if self.weights is None else weight * self.weights[i]
        ((loss * counted.to(loss.device)).sum() * scale).backward()
        assert mean.grad is not None
        size = mean.grad.flatten(1).norm(dim=1).view(2, -1).sum(0).cpu() * self.sensitivity[i] / scale
        rows = torch.cat([now["log_prob"].detach(), old["log_prob"], loss.detach()[None]]).cpu()
        return torch.cat([rows, size[None]])

    def _step(self) -> float:
        """Clip the gradient and take an AdamW step; returns the norm before clipping."""
        self._check_adapter("gradient", {name: p.grad for name, p in self.parameters.items() if p.grad is not None})
        norm = torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.train.clip_norm)
        self._check_adapter("norm of the gradient", {"all layers": norm})
        self.optimizer.step()
        self._check_adapter("weight", self.parameters)
        self.optimizer.zero_grad(set_to_none=True)
        return norm.item()

    def _exchange(self, seen: torch.Tensor, scale: float) -> None:
        """Sum gradients and terms over all processes, in one exchange."""
        for parameter in self.parameters.values():
            if parameter.grad is None:  # a process without a single row
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad /= scale
        add_up([seen, *(parameter.grad for parameter in self.parameters.values() if parameter.grad is not None)])
        if self.done == 0:
            self.old.combine()

    # --- log p_old ---

    def _store_old(self) -> None:
        """Compute log p_old. Raises RatioError if the log-probs of sampling are not reproduced.

        The first optimizer step's own log-probs are log p_old, so that beyond its first micro-batch only those of the
        inner epoch's other optimizer steps are computed here.
        """
        pair, i, _ = next(self.micro_batches(*self.rows(0)))
        with torch.no_grad():
            self.old.store(pair, i, self.evaluate(pair, i))
            for update in range(1, self.groups):
                for p, s, _ in share(list(self.micro_batches(*self.rows(update)))):
                    self.old.store(p, s, self.evaluate(p, s))
        if self.groups > 1:
            self.old.combine()
        self.old.check_replay(pair, i, self.pairs.log_prob, self.policy.unet.dtype, self.round)

    def _old_for(self, pair: torch.Tensor, i: torch.Tensor, now: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The stored values, or, before the first optimizer step, those of this pass."""
        if self.done == 0:
            self.old.check_same(pair, i, now["log_prob"])
        if self.done == 0 or not self.old.knows(pair, i):
            self.old.store(pair, i, now)
        return self.old.get(pair, i, self.policy.device)

    # --- numbers that are not finite ---

    def _check_log_prob(self, log_prob: torch.Tensor, pair: torch.Tensor, i: torch.Tensor) -> None:
        """Raise NotFinite for the first log-prob (2, row) that is not finite; stored ones are NaN while unknown."""
        bad = (~log_prob.isfinite()).nonzero()
        if len(bad):
            side, row = bad[0].tolist()
            what = f"in update {self.done}, log_prob of the {('winner', 'loser')[side]}"
            raise NotFinite(what, int(pair[row]), self.pairs.num_steps - int(i[row]))

    def _check_adapter(self, what: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Raise BadNumber naming the layer of a gradient or weight that is not finite."""
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                where = f"{name} is NaN or infinite in update {self.done} of {self.round}"
                raise BadNumber(f"train: the {what} of {where}.", REMEDY)

    # --- saving and resuming ---

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The state to resume from: arrays by name, and the rest as JSON."""
        arrays = {f"adapter/{name}": p.detach().cpu().numpy() for name, p in self.parameters.items()}
        arrays |= {f"optimizer/{name}": a for name, a in to_arrays(self.optimizer, self.parameters).items()}
        arrays |= {f"old/{name}": values.numpy() for name, values in self.old.values.items()}
        return arrays, {"done": self.done, **asdict(self.diagnostics)}

    def resume(self, saved: tuple[dict[str, Any], dict[str, Any]] | None, optimizer_file: Path) -> None:
        """Restore a saved state, or the optimizer's state of the previous round, if there is one."""
        if saved is None:
            load_optimizer(self.optimizer, self.parameters, optimizer_file)
            return
        arrays, rest = saved
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(torch.from_numpy(arrays[f"adapter/{name}"]))
        inner = {k.removeprefix("optimizer/"): v for k, v in arrays.items() if k.startswith("optimizer/")}
        from_arrays(self.optimizer, self.parameters, inner)
        self.old.values = {name: torch.from_numpy(arrays[f"old/{name}"]).clone() for name in self.old.values}
        self.done, self.diagnostics = rest["done"], Diagnostics(rest["updates"], rest["timesteps"])
