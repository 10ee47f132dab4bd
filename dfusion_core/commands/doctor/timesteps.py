"""Shares of the trained timesteps in the gradient of the loss."""

from __future__ import annotations

from .facts import Facts
from .findings import Finding, ok, warning

OUTWEIGHS = 3.0  # times the next one


def timesteps(facts: Facts) -> Finding:
    """No trained timestep dominates the gradient, or train.timestep_weight is equal."""
    from ...diffusion.steps import sensitivity
    from ...diffusion.window import step_indices

    train, schedule = facts.params.train, facts.policy.schedule
    weights = sensitivity(schedule)
    weight = {schedule.num_steps - i: float(weights[i]) for i in step_indices(train, schedule.num_steps)}
    t = max(weight, key=lambda one: weight[one])
    others = max((value for one, value in weight.items() if one != t), default=weight[t])
    found = f"t = {t} weighs {weight[t] / others:.1f} times as much as any other timestep in a log-prob's gradient"
    if train.timestep_weight == "equal" or weight[t] < OUTWEIGHS * others:
        return ok(found if train.timestep_weight == "none" else f"{found}; train.timestep_weight evens that out")
    return warning(
        f"{found}, as in the paper",
        f"To even it out, set train.timestep_weight to equal, or leave the timestep out with train.last_t: {t + 1}.",
    )
