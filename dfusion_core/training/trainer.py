"""One round of training: AdamW on the adapter, Eq. 6, 8 or 9 over every timestep of every pair.

One optimizer step sees ``pairs_per_update`` pairs with all their timesteps (Table 3's accumulation of 320). The
sum is cut into micro-batches of one fixed shape, the last padded with rows of weight zero: the same row then gives
the same log-prob in every pass, so the first ratio is exactly 1.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from ..diffusion import ddim
from ..errors import BadNumber, RatioError
from ..models.lora import trainable
from ..runtime.ranks import add_up, share, world
from .objectives import remembered, row_loss
from .optimizer import damping, from_arrays, load_optimizer, to_arrays

if TYPE_CHECKING:
    from ..models.policy import Policy
    from ..params.sections import Algo, Train
    from .trajectories import Pairs

RATIO_TOLERANCE = 1e-5  # between two passes of the same graph on the same rows
REPLAY_TOLERANCE = {torch.float32: 1e-3}  # against sampling, another batch shape and a merged adapter
COARSE_TOLERANCE = 0.1  # the same in 16 bits (bf16 shifts the late steps by up to 0.04)
REMEDY = "Set model.dtype to bf16 or fp32, or lower train.learning_rate; what was trained so far is kept."
HEADROOM = 4  # powers of two that fp16's scaled gradients stay below 1, for they grow on their way
HISTORY = ("update", "loss", "margin", "implicit_accuracy", "winner_drift", "loser_drift", "largest_log_ratio",
           "clip_fraction", "gradient_norm", "epsilon_share")  # columns, the same in a run that was interrupted

BY_TIMESTEP = ("update", "t", "winner_drift", "loser_drift", "largest_log_ratio")


def gradient_scale(dtype: torch.dtype, elements: int) -> float:
    """What the loss is multiplied by before the backward pass through a U-Net of this dtype, a power of two.

    The loss is a mean over ``elements`` latent elements of all rows: at SD size the gradient at one of them is near
    1e-8, which fp16 rounds to zero. bf16 and fp32 have the exponents for it and stay as they are.
    """
    return 2.0 ** max(0, math.floor(math.log2(elements)) - HEADROOM) if dtype == torch.float16 else 1.0


@dataclass
class Trainer:
    """Trains ``policy``'s adapter on ``pairs``; resumable after every optimizer step."""

    policy: Policy
    pairs: Pairs
    train: Train
    seed: int
    round: str
    algo: Algo = "dpo"
    done: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    by_timestep: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parameters = trainable(self.policy.unet)
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()), lr=self.train.learning_rate, betas=self.train.betas,
            eps=self.train.epsilon, weight_decay=self.train.weight_decay)
        self.text = self.policy.embed(self.pairs.prompts)
        self.empty = self.policy.embed([""])
        rows = (2, len(self.pairs), self.pairs.num_steps)
        shapes = {"log_prob": rows, "mean": (*rows, *self.policy.latent_shape)}
        self.old = {name: torch.full(shapes[name], float("nan")) for name in remembered(self.algo)}

    @property
    def groups(self) -> int:
        """Optimizer steps per inner epoch."""
        return -(-len(self.pairs) // self.train.pairs_per_update)

    @property
    def updates(self) -> int:
        """Optimizer steps of the round."""
        return self.groups * self.train.inner_epochs

    def remaining(self) -> Iterator[int]:
        """The numbers of the optimizer steps still to do."""
        yield from range(self.done, self.updates)

    # --- one optimizer step ---

    def rows(self, update: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(pair, step index) of every term of the sum of an update, pairs shuffled anew in each inner epoch."""
        epoch, group = divmod(update, self.groups)
        key = hashlib.blake2b(f"{self.seed}/{self.round}/{epoch}".encode(), digest_size=8).digest()
        shuffle = torch.Generator().manual_seed(int.from_bytes(key, "big") >> 1)
        order = torch.randperm(len(self.pairs), generator=shuffle)
        chosen = order[group * self.train.pairs_per_update:(group + 1) * self.train.pairs_per_update]
        return self.terms(chosen)

    def terms(self, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(pair, step index) for these pairs, without the steps at which winner and loser are the same.

        Nor those above ``first_step`` and below ``last_step``: of 20 steps the one at t = 2 moves the log-ratio about
        seven times as much per change of the predicted noise as the others, and shows texture rather than content.
        """
        steps = torch.tensor(self.train.steps(self.pairs.num_steps))
        pair = chosen.repeat_interleave(len(steps))
        step = steps.repeat(len(chosen))
        differs = step >= self.pairs.first_index[pair]
        return pair[differs], step[differs]

    def now(self, pair: torch.Tensor, step: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the plain, unfused policy says of winners and losers.

        ``log_prob`` (2, rows) is log p_theta(x_{t-1} | x_t, c), ``mean`` (2, rows, c, h, w) that of the Gaussian.
        Raises BadNumber.
        """
        x_t, x_prev = (
            torch.cat([self.pairs.winner[pair, step + k], self.pairs.loser[pair, step + k]]).to(self.policy.device)
            for k in (0, 1))
        twice = step.repeat(2)
        text = self.text[self.pairs.prompt_row[pair]].repeat(2)
        eps = self.policy.predict_noise(x_t, twice, text, self.empty)
        mean = ddim.mean(self.policy.schedule, twice, x_t, eps)
        log_prob = ddim.log_prob(x_prev, mean, self.policy.schedule.std[twice])
        self.check_log_prob(log_prob.detach().view(2, -1), pair, step)
        found = {"log_prob": log_prob.view(2, -1), "mean": mean.view(2, -1, *mean.shape[1:])}
        return {name: found[name] for name in self.old}

    def check_log_prob(self, log_prob: torch.Tensor, pair: torch.Tensor, step: torch.Tensor) -> None:
        """Raise BadNumber naming pair, image and timestep of the first log-prob (2, rows) that is not finite.

        It must not reach ``old``, where a NaN means that nothing is known yet.
        """
        bad = (~log_prob.isfinite()).nonzero()
        if len(bad):
            side, row = bad[0].tolist()
            raise BadNumber(
                f"train: log_prob of the {('winner', 'loser')[side]} of {self.pairs.names[int(pair[row])]} is NaN or "
                f"infinite at t = {self.pairs.num_steps - int(step[row])}, in update {self.done} of {self.round}.",
                REMEDY)

    def micro_batches(self, pair: torch.Tensor, step: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """(pair, step, weight) of fixed size; the last is filled up with rows of weight 0."""
        size = self.train.micro_batch
        for start in range(0, len(pair), size):
            p, s = pair[start:start + size], step[start:start + size]
            missing = size - len(p)
            weight = torch.cat([torch.ones(len(p)), torch.zeros(missing)])
            yield torch.cat([p, p[-1:].expand(missing)]), torch.cat([s, s[-1:].expand(missing)]), weight

    def before_first_step(self) -> None:
        """Fill log p_old, and refuse to train where this machine does not reproduce it.

        The first optimizer step's own log-probs are log p_old, so that nothing has to be computed for it here beyond
        the first micro-batch; those of the inner epoch's other steps are.
        """
        first = next(self.micro_batches(*self.rows(0)))
        with torch.no_grad():
            self.remember(first[0], first[1], self.now(first[0], first[1]))
            for update in range(1, self.groups):
                for pair, step, _ in share(list(self.micro_batches(*self.rows(update)))):
                    self.remember(pair, step, self.now(pair, step))
        if self.groups > 1:
            self.remember_together()
        self.check_replay(*first[:2])

    def remember(self, pair: torch.Tensor, step: torch.Tensor, found: dict[str, torch.Tensor]) -> None:
        """Keep what the policy says before the round's first step."""
        for name, values in found.items():
            self.old[name][:, pair, step] = values.detach().cpu().float()

    def remember_together(self) -> None:
        """Let every process know what each of them keeps."""
        if world() == 1:
            return
        for name, values in self.old.items():
            known = ~values.isnan()
            total, count = values.nan_to_num(0.0), known.float()
            add_up([total, count])
            self.old[name] = torch.where(count > 0, total / count, float("nan"))

    def check_replay(self, pair: torch.Tensor, step: torch.Tensor) -> None:
        """Raise RatioError where the losers' log-probs differ from those seen while sampling."""
        seen = self.pairs.log_prob[pair, step]
        known = ~seen.isnan()  # a twin's are not stored, and no other is NaN
        if not known.any():
            return
        off = (self.old["log_prob"][1, pair, step] - seen)[known].abs().max().item()
        tolerance = REPLAY_TOLERANCE.get(self.policy.unet.dtype, COARSE_TOLERANCE)
        if not off <= tolerance:
            raise RatioError(
                f"train: log_prob of the first batch differs from the stored one by {off:.2g} (tolerance {tolerance}).",
                "The adapter, model.dtype or device is not the one that sampled; run 'dvc repro' from sample on.")

    def update(self) -> None:
        """One AdamW step on the mean loss of the update's pairs and timesteps."""
        if self.done == 0:
            self.before_first_step()
        pair, step = self.rows(self.done)
        # (winner, loser, old winner, old loser, loss) of every term; each process fills in its own
        seen = torch.zeros(5, len(pair))
        scale = gradient_scale(self.policy.unet.dtype, len(pair) * math.prod(self.policy.latent_shape))
        batches = list(self.micro_batches(pair, step))
        for number in share(range(len(batches))):
            p, s, weight = batches[number]
            now = self.now(p, s)
            old = self.old_for(p, s, now)
            advantage = self.pairs.advantage[:, p].to(self.policy.device)
            loss = row_loss(self.algo, self.train, now, old, advantage, self.policy.schedule.std[s])
            ((loss * weight.to(loss.device)).sum() * (scale / len(pair))).backward()
            rows = torch.cat([now["log_prob"].detach(), old["log_prob"], loss.detach()[None]])
            first, real = number * self.train.micro_batch, int(weight.sum())
            seen[:, first:first + real] = rows.cpu()[:, :real]
        self.exchange(seen, scale)
        self.check_adapter("gradient", {name: p.grad for name, p in self.parameters.items() if p.grad is not None})
        norm = torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.train.clip_norm)
        self.check_adapter("norm of the gradient", {"all layers": norm})
        self.optimizer.step()
        self.check_adapter("weight", self.parameters)
        self.optimizer.zero_grad(set_to_none=True)
        self.history.append(self.diagnose(seen, norm.item()))
        self.by_timestep += self.diagnose_timesteps(seen, step)
        self.done += 1

    def check_adapter(self, what: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Raise BadNumber naming the layer of a gradient or weight that is not finite."""
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                where = f"{name} is NaN or infinite in update {self.done} of {self.round}"
                raise BadNumber(f"train: the {what} of {where}.", REMEDY)

    def exchange(self, seen: torch.Tensor, scale: float) -> None:
        """One exchange per optimizer step: gradients are sums over all processes' rows, and so is what was seen."""
        for parameter in self.parameters.values():
            if parameter.grad is None:  # a process without a single row
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad /= scale
        add_up([seen, *(parameter.grad for parameter in self.parameters.values() if parameter.grad is not None)])
        if self.done == 0:
            self.remember_together()

    def old_for(
        self, pair: torch.Tensor, step: torch.Tensor, now: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """What the policy before the round says: remembered, or where nothing was trained yet, just this."""
        if self.done == 0:
            known = self.old["log_prob"][:, pair, step]
            off = (now["log_prob"].detach().cpu() - known).abs().nan_to_num(0.0).max().item()
            if off > RATIO_TOLERANCE:
                raise RatioError(
                    f"train: the same log_prob came out {off:.2g} apart in two passes (tolerance {RATIO_TOLERANCE}).",
                    "The first ratio of Eq. 6 would not be 1. Set model.dtype to fp32.")
        if self.done == 0 or self.old["log_prob"][:, pair, step].isnan().any():
            self.remember(pair, step, now)
        return {name: values[:, pair, step].to(self.policy.device) for name, values in self.old.items()}

    def diagnose(self, seen: torch.Tensor, norm: float) -> dict[str, float]:
        """What tells whether it learns, from rows (winner, loser, old winner, old loser, loss) of one update.

        The loss itself stays near log 2 and tells nothing.
        """
        winner, loser, old_winner, old_loser, loss = seen
        drift_w, drift_l = winner - old_winner, loser - old_loser
        drifts = torch.cat([drift_w, drift_l])
        clipped = (drifts.exp() - 1).abs() > self.train.ratio_clip if self.algo != "dpo" else torch.zeros(1)
        return {
            "update": self.done, "loss": loss.mean().item(), "margin": (drift_w - drift_l).mean().item(),
            "implicit_accuracy": ((drift_w > drift_l).float() + 0.5 * (drift_w == drift_l).float()).mean().item(),
            "winner_drift": drift_w.mean().item(), "loser_drift": drift_l.mean().item(),
            "largest_log_ratio": drifts.abs().max().item(), "clip_fraction": clipped.float().mean().item(),
            "gradient_norm": norm, "epsilon_share": damping(self.optimizer)}

    def diagnose_timesteps(self, seen: torch.Tensor, step: torch.Tensor) -> list[dict[str, float]]:
        """Where in time the policy moves: the log-ratios of one update by the paper's t."""
        drift = seen[:2] - seen[2:4]
        rows: list[dict[str, float]] = []
        for i in step.unique().tolist():
            of_step = drift[:, step == i]
            rows.append({
                "update": self.done, "t": self.pairs.num_steps - i, "winner_drift": of_step[0].mean().item(),
                "loser_drift": of_step[1].mean().item(), "largest_log_ratio": of_step.abs().max().item()})
        return rows

    # --- stopping and going on ---

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Everything needed to go on after a kill: arrays by name, and the small rest as JSON."""
        arrays = {f"adapter/{name}": p.detach().cpu().numpy() for name, p in self.parameters.items()}
        arrays |= {f"optimizer/{name}": a for name, a in to_arrays(self.optimizer, self.parameters).items()}
        arrays |= {f"old/{name}": values.numpy() for name, values in self.old.items()}
        return arrays, {
            "done": self.done, "history": self.history, "by_timestep": self.by_timestep}

    def resume(self, saved: tuple[dict[str, Any], dict[str, Any]] | None, optimizer_file: Path) -> None:
        """Go on from a saved state, or begin with the optimizer state of the round before, if there is one."""
        if saved is None:
            load_optimizer(self.optimizer, self.parameters, optimizer_file)
            return
        arrays, rest = saved
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(torch.from_numpy(arrays[f"adapter/{name}"]))
        inner = {k.removeprefix("optimizer/"): v for k, v in arrays.items() if k.startswith("optimizer/")}
        from_arrays(self.optimizer, self.parameters, inner)
        self.old = {name: torch.from_numpy(arrays[f"old/{name}"]).clone() for name in self.old}
        self.done, self.history, self.by_timestep = rest["done"], rest["history"], rest["by_timestep"]

    def history_table(self) -> pd.DataFrame:
        """One row an optimizer step."""
        return pd.DataFrame(self.history, columns=list(HISTORY)).astype({"update": int})

    def timestep_table(self) -> pd.DataFrame:
        """One row an optimizer step and timestep."""
        return pd.DataFrame(self.by_timestep, columns=list(BY_TIMESTEP)).astype({"update": int, "t": int})
