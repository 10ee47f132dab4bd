"""Rules over several sections of params.yaml."""

import json
import re

from ..errors import did_you_mean, short
from . import sections as s
from .rounds import listed_names

ROUND = re.compile(r"r[0-9]{2,6}")


def across_sections(p: s.Everything) -> list[str]:
    """Raise errors for rules over several sections."""
    problems = []
    if p.fuse.first_t > p.sample.num_steps:
        problems.append(
            f"fuse.first_t: must be at most sample.num_steps = {p.sample.num_steps} (got {p.fuse.first_t})."
        )
    if p.fuse.last_t > p.fuse.first_t:
        problems.append(f"fuse.last_t: must be at most fuse.first_t = {p.fuse.first_t} (got {p.fuse.last_t}).")
    first = p.train.first_t
    if first is not None and not p.train.last_t <= first <= p.sample.num_steps:
        problems.append(
            f"train.first_t: must be from train.last_t = {p.train.last_t} to sample.num_steps = "
            f"{p.sample.num_steps} (got {first})."
        )
    if p.train.last_t > p.fuse.first_t:  # otherwise no step of a target is trained
        problems.append(f"train.last_t: must be at most fuse.first_t = {p.fuse.first_t} (got {p.train.last_t}).")
    if len(set(p.fuse.layers)) != len(p.fuse.layers):
        problems.append(f"fuse.layers: names a layer twice (got {json.dumps(p.fuse.layers)}).")
    if not all(0 <= beta < 1 for beta in p.train.betas):
        problems.append(f"train.betas: both must be at least 0 and below 1 (got {json.dumps(p.train.betas)}).")
    if isinstance(p.extract.keep_kv, int) and not 0 <= p.extract.keep_kv <= s.MANY:
        problems.append(
            f"extract.keep_kv: must be all, none or at least 0 and at most {s.MANY} (got {p.extract.keep_kv})."
        )
    if p.evaluate.train_count == 0 and 0 in (p.evaluate.test_count, p.prompts.test_count):
        problems.append(
            "evaluate.train_count: must be above 0, or evaluate.test_count and prompts.test_count must: "
            "there is nothing to evaluate (got 0)."
        )
    if p.pairing.mode == "top_quarter_twice" and p.sample.images_per_prompt % 4:
        problems.append(
            "sample.images_per_prompt: must be a multiple of 4 for pairing.mode: top_quarter_twice "
            f"(got {p.sample.images_per_prompt})."
        )
    return problems + _rounds(p.rounds)


def _rounds(rounds: dict[str, s.Round]) -> list[str]:
    """Each round is called r00, r01, ... and follows `init` or a round with a smaller number."""
    problems = [] if rounds else ["rounds: needs at least one round, as r00: {prev: init}."]
    for name, this in rounds.items():
        if not ROUND.fullmatch(name):
            problems.append(f"rounds.{short(name)}: a round is called r00, r01, ... .")
        elif this.prev != "init" and this.prev not in rounds:
            guess = "" if ROUND.fullmatch(this.prev) else did_you_mean(this.prev, [*rounds, "init"])
            problems.append(
                f"rounds.{name}.prev: there is no round '{short(this.prev)}'. "
                f"{guess or f'It must be init or one of {listed_names(rounds)}.'}"
            )
        elif this.prev != "init" and int(this.prev[1:]) >= int(name[1:]):
            problems.append(f"rounds.{name}.prev: must be init or an earlier round (got '{this.prev}').")
    return problems
