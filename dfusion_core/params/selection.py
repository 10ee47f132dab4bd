"""The sections of params.yaml that a stage requests."""

from typing import Any

from . import sections as s
from .explaining import plain

NEVER_IN_FINGERPRINT = ("launcher", "rounds", "tracking")  # starting and tracking of stages, and other rounds


class Params:
    """The sections that a stage requested. Others raise AttributeError, because dvc.yaml must list them too."""

    algo: s.Algo
    pairs: s.Pairs
    seed: int
    rounds: dict[str, s.Round]
    model: s.Model
    lora: s.Lora
    prompts: s.Prompts
    sample: s.Sample
    reward: s.Reward
    extract: s.Extract
    fuse: s.Fuse
    pairing: s.Pairing
    adopt: s.Adopt
    train: s.Train
    evaluate: s.Evaluate
    launcher: s.Launcher

    def __init__(self, **sections: Any) -> None:
        self.__dict__.update(sections)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"params: section '{name}' was not asked for. "
            "Add it to load_params(...) in the stage and to `params:` in dvc.yaml."
        )

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"params are frozen; '{name}' cannot be set")

    def as_dict(self) -> dict[str, Any]:
        """The requested sections as plain JSON values."""
        return {name: plain(value) for name, value in sorted(vars(self).items())}

    def for_fingerprint(self) -> dict[str, Any]:
        """`as_dict()` without sections on which no result depends: NEVER_IN_FINGERPRINT."""
        return {name: value for name, value in self.as_dict().items() if name not in NEVER_IN_FINGERPRINT}
