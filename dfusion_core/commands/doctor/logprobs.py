"""How exactly the log-probs of Eq. 1 come out again: in another batch, another dtype, another pass, another graph."""

from __future__ import annotations

import torch

from ...training.trainer import COARSE_TOLERANCE, RATIO_TOLERANCE, REPLAY_TOLERANCE
from .facts import Facts
from .findings import PER_STEP, Details, Finding, failed, ok, warning
from .passes import log_prob_of

FP32 = "Set model.dtype to fp32"


def batch_size(facts: Facts) -> Finding:
    """The log-prob of a row alone against that of the same row in the sampler's batch."""
    what = f"a row alone and in a batch of {facts.effort.batch}"
    return judged(facts, "batch size", again(facts, 1), replay_tolerance(facts), what)


def precision(facts: Facts) -> Finding:
    """The log-probs in model.dtype against those of the same weights in fp32."""
    unet, dtype = facts.policy.unet, facts.policy.unet.dtype
    if dtype is torch.float32:
        return ok("the U-Net computes in fp32 already")
    unet.float()  # exact, and so is the way back
    try:
        off = again(facts, 2)
    finally:
        torch.nn.Module.to(unet, dtype)  # diffusers' own says that modules should be kept in fp32: none
    name = str(dtype).removeprefix("torch.")
    found = judged(facts, "precision", off, COARSE_TOLERANCE, f"{name} and fp32")
    return found if found.verdict == "ok" else warning(found.found, found.remedy, found.details)


def ratio(facts: Facts) -> Finding:
    """Eq. 6 starts at ratio 1: the same rows through the same graph give the same log-probs, at every step."""
    passes = facts.passes
    off = _by_step(facts, (passes.with_gradient - passes.without_gradient).abs().amax(dim=0))
    found = judged(facts, "ratio", off, RATIO_TOLERANCE, "log-ratios of two passes")
    return found if found.verdict == "ok" else failed(found.found, f"{FP32}.", found.details)


def replay(facts: Facts) -> Finding:
    """Training finds the log-probs that sampling saw: another batch shape, and the adapter beside the weights."""
    steps = facts.effort.steps
    seen = torch.stack([facts.drawn.log_prob[i][:2] for i in steps], dim=1)
    off = _by_step(facts, (facts.passes.without_gradient - seen).abs().amax(dim=0))
    return judged(facts, "replay", off, replay_tolerance(facts), "training and sampling")


def again(facts: Facts, rows: int) -> dict[int, float]:
    """By step index how far the log-probs of the first ``rows`` drawn rows come out from those of sampling."""
    seen = facts.drawn.log_prob
    return {i: float((log_prob_of(facts, i, rows) - seen[i][:rows]).abs().max()) for i in facts.effort.steps}


def replay_tolerance(facts: Facts) -> float:
    """What `train` allows between its log-probs and those of sampling."""
    return REPLAY_TOLERANCE.get(facts.policy.unet.dtype, COARSE_TOLERANCE)


def judged(facts: Facts, name: str, off: dict[int, float], tolerance: float, what: str) -> Finding:
    """The verdict on differences by step index. Steps that are not trained on are shown and do not count."""
    total = facts.params.sample.num_steps
    wanted = facts.params.train.steps(total)
    by_t = {total - i: value for i, value in off.items()}
    details: Details = [{PER_STEP: t, name: value} for t, value in by_t.items()]
    trained = {t: value for t, value in by_t.items() if total - t in wanted} or by_t
    worst = max(trained, key=lambda t: trained[t] if trained[t] == trained[t] else float("inf"))
    found = f"{what} differ by at most {trained[worst]:.2g} (t = {worst}); {tolerance:g} is allowed"
    if trained[worst] <= tolerance:
        return ok(found, details=details)
    return failed(found, _remedy(trained, tolerance), details)


def _remedy(trained: dict[int, float], tolerance: float) -> str:
    """fp32; or to leave out the last steps, if only they are beyond."""
    bad = max(t for t, value in trained.items() if not value <= tolerance)
    good = [t for t in trained if t > bad]
    return f"{FP32}" + (f", or train.last_step to {min(good)}." if good else ".")


def _by_step(facts: Facts, values: torch.Tensor) -> dict[int, float]:
    return dict(zip(facts.effort.steps, values.tolist(), strict=True))
