"""The micro-world's fixed training and test prompts, and the data files that list them."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np

from .grammar import TEMPLATES, all_prompts, equivalent, parse

COUNT = 40  # prompts in each list
SEED = 2025
SLACK = 1  # most by which two values of one factor may differ in how often they occur in a list


def items(prompt: str) -> list[str]:
    """The item words of a prompt, e.g. ["heart", "balloon"], ["square"] or ["star", "circle"]."""
    named = parse(prompt)
    if named.template == "relation":
        return [named.first, named.second]
    return [named.shape, named.accessory] if named.accessory else [named.shape]


def _uses(prompt: str, values: Counter[tuple[str, str]]) -> int:
    """How often the factor values of a prompt were used so far."""
    return sum(values[pair] ** 2 for pair in parse(prompt).factors().items())


def _balanced(pool: list[str], rng: np.random.Generator) -> list[str]:
    """``COUNT`` prompts picked one by one, each time one whose factor values were used least.

    A selected prompt is removed from the pool, with the other prompt for the same picture.
    """
    used: Counter[tuple[str, str]] = Counter()
    chosen: list[str] = []
    for _ in range(COUNT):
        costs = [_uses(prompt, used) for prompt in pool]
        best = [prompt for prompt, cost in zip(pool, costs, strict=True) if cost == min(costs)]
        prompt = best[int(rng.integers(len(best)))]
        chosen.append(prompt)
        used.update(parse(prompt).factors().items())
        for gone in filter(None, {prompt, equivalent(prompt)}):
            pool.remove(gone)
    return chosen


def spread(prompts: list[str]) -> int:
    """The largest difference in occurrences between two values of one factor."""
    counts: dict[str, Counter[str]] = {}
    for prompt in prompts:
        for factor, value in parse(prompt).factors().items():
            counts.setdefault(factor, Counter())[value] += 1
    return max(max(c.values()) - min(c.values()) for c in counts.values())


@cache
def _lists(template: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The two lists of the first seed from ``SEED`` on whose lists are both balanced."""
    for seed in range(SEED, SEED + 500):
        rng = np.random.default_rng(seed)
        pool = all_prompts(template)
        train, test = _balanced(pool, rng), _balanced(pool, rng)
        if max(spread(train), spread(test)) <= SLACK:
            return tuple(train), tuple(test)
    raise RuntimeError(f"no balanced prompt lists found for {template!r}")


def prompt_lists(template: str) -> tuple[list[str], list[str]]:
    """40 training and 40 test prompts of a template, no picture described in both or twice."""
    train, test = _lists(template)
    return list(train), list(test)


def _lines(name: str, prompts: list[str]) -> list[str]:
    """One list of a data file."""
    return [f"{name}:", *(f"  - {{prompt: {p}, items: [{', '.join(items(p))}]}}" for p in prompts)]


def write_prompt_files(folder: str | Path) -> list[Path]:
    """Writes micro_<template>.yaml for each template into ``folder``; returns the paths."""
    paths = []
    for template in TEMPLATES:
        train, test = prompt_lists(template)
        path = Path(folder) / f"micro_{template}.yaml"
        path.write_text("\n".join([*_lines("train", train), *_lines("test", test)]) + "\n", encoding="utf-8")
        paths.append(path)
    return paths
