"""All checks in their order; a check comes after those that it needs."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from .facts import Facts
from .findings import Finding
from .runner import Check


def _later(place: str) -> Callable[[Facts], Finding]:
    """``module.function`` of this package, imported when the check runs: a failing import is a finding."""

    def look(facts: Facts) -> Finding:
        module, function = place.split(".")
        found: Finding = getattr(import_module(f".{module}", __package__), function)(facts)
        return found

    return look


CHECKS = tuple(
    Check(name, _later(place), needs)
    for name, place, needs in (
        ("versions", "installation.versions", ()),
        ("imports", "installation.imports", ()),
        ("folder", "folder.space", ()),
        ("locks", "folder.locks", ()),
        ("DVC", "folder.dvc", ()),
        ("dvc.yaml", "folder.pipeline", ()),
        ("params.yaml", "settings.params", ()),
        ("prompts", "settings.prompts", ("imports", "params.yaml")),
        ("device", "hardware.device", ("imports", "params.yaml")),
        ("dtype", "hardware.dtype", ("device",)),
        ("model files", "weights.files", ("params.yaml",)),
        ("pinned weights", "weights.pinned", ("model files",)),
        ("memory", "hardware.memory", ("dtype", "model files")),
        ("model", "weights.model", ("device", "model files")),
        ("scheduler", "weights.scheduler", ("model",)),
        ("timesteps", "timesteps.timesteps", ("scheduler", "params.yaml")),
        ("items", "settings.items", ("prompts", "model")),
        ("forward", "forward.forward", ("model",)),
        ("topology", "topology.topology", ("forward",)),
        ("fuse.layers", "topology.fuse_layers", ("forward",)),
        ("sample.maps", "topology.map_layer", ("forward",)),
        ("picture", "forward.picture", ("forward",)),
        ("lora.targets", "topology.adapter_layers", ("model",)),
        ("reward", "scoring.reward", ("device",)),
        ("scored prompts", "settings.scored", ("prompts", "reward")),
        ("scores", "scoring.scores", ("reward",)),
    )
)
