"""Which file of people's answers a stage depends on. Nothing that takes time is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..store.paths import labels_file

if TYPE_CHECKING:
    from ..params import Reward


def human_inputs(reward: Reward, round: str, targets: bool = False) -> dict[str, Path | Sequence[Path]]:
    """The answers that decide a score, where the reward asks people and there are some already.

    targets: of the new pictures of the pairs; a head is fitted on the answers about the sampled images.
    """
    file = labels_file(round, targets and reward.human_targets == "people")
    return {f"people's answers in {file}": file} if reward.human and file.is_file() else {}
