"""The files of people's answers that a stage depends on. This module has no slow imports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..store.paths import labels_file

if TYPE_CHECKING:
    from ..params import Reward


def human_inputs(reward: Reward, round: str, targets: bool = False) -> dict[str, Path | Sequence[Path]]:
    """The existing files of answers that a score depends on; none if people are not in the reward.

    targets: for the new pictures of the pairs; with a head, the answers about the sampled images.
    """
    file = labels_file(round, targets and reward.human_targets == "people")
    return {f"people's answers in {file}": file} if reward.human and file.is_file() else {}
