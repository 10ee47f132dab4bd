"""The identity of a reward, so that scores of different rewards are not compared.

The identity of a reward (`Scorer.identity`) is in reward.json beside every table of scores: names of the models,
their weights in the sum, a sha256 of CLIP's tensors and the identity of each plug-in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RewardError, StoreError
from ..store.hints import how_to_mend
from ..store.json_files import read_json

if TYPE_CHECKING:
    from ..store.reading import StageData

FILE = "reward.json"
KEYS = ("clip.model", "clip.weight", "clip.sha256", "plugins")
HUMAN = "human"  # the term of people's preferences
# Columns of tables that have scores: no plug-in may have such a name
RESERVED = (
    "reward",
    "clip",
    HUMAN,
    "right",
    "diversity",
    "oracle_log_prob",
    "image",
    "split",
    "prompt_id",
    "prompt",
    "sample",
    "seed",
    "round",
)
Identity = dict[str, Any]


def read_identity(output: StageData) -> Identity:
    """The reward of a published table of scores. Raises StoreError."""
    file = output.path(FILE)
    return check_identity(read_json(file, *KEYS), file)


def check_identity(found: Identity, file: Path) -> Identity:
    """``found``, if it has the form of `Scorer.identity`. Raises StoreError that names the file."""
    plugins = found["plugins"]
    if (
        not isinstance(found["clip"]["weight"], int | float)
        or not isinstance(plugins, dict)
        or not all(isinstance(term, dict) and {"weight", "identity"} <= term.keys() for term in plugins.values())
    ):
        raise StoreError(f"store: {file} does not say which reward its scores come from.", how_to_mend(file))
    return found


def require_same_reward(identities: Mapping[str, Identity]) -> Identity:
    """The common reward of all these scores.

    identities: by the name of the scoring stage in dvc.yaml, in order; the others are compared with the last one.
    Raises RewardError that names the stages to run again.
    """
    last = list(identities)[-1]
    others = [stage for stage, identity in identities.items() if identity != identities[last]]
    if others:
        stages = " ".join(others)
        raise RewardError(
            f"reward: the scores of {', '.join(others)} and {last} come from different rewards: "
            f"{describe(identities[others[0]])}; {describe(identities[last])}.",
            f"Score with one of them: 'dvc repro -f -s {stages}', then 'dvc repro'.",
        )
    return identities[last]


def describe(identity: Identity) -> str:
    """The models of a reward with their weights in the sum and the beginning of their hashes, in one line."""
    clip = identity["clip"]
    terms = [f"{clip['weight']} x CLIPScore {clip_name(identity)} ({str(clip['sha256'])[:12]})"]
    terms += [f"{term['weight']} x {name} ({str(term['identity'])[:12]})" for name, term in identity["plugins"].items()]
    return " + ".join(terms)


def clip_name(identity: Identity) -> str:
    """Name of the CLIP model in tables; of a folder the last part of its path."""
    return Path(str(identity["clip"]["model"]).removeprefix("local-dir:")).name


def is_clip_alone(identity: Identity) -> bool:
    """Whether the reward is CLIPScore itself."""
    return not identity["plugins"] and identity["clip"]["weight"] == 1
