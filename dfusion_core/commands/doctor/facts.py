"""What earlier checks found and later ones need."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ...models.policy import Policy
    from ...models.source import Source
    from ...models.text import Text
    from ...params.sections import Everything
    from ...prompts.reading import Prompt
    from ...rewards.scoring import Scorer
    from .effort import Effort
    from .passes import Drawn, Passes


class Facts:
    """Each attribute is set by one check; a check that reads it names that one in ``Check.needs``."""

    params: Everything
    prompts: tuple[Prompt, ...]  # those that are trained on
    device: torch.device
    dtype: torch.dtype
    source: Source
    policy: Policy
    effort: Effort
    drawn: Drawn
    passes: Passes
    reward: Scorer

    def __init__(self, file: Path, quick: bool) -> None:
        self.file, self.quick = file, quick
        self.text = "a picture"  # what test images are drawn to, if no prompt file can be read
        self.words: dict[torch.dtype, Text] = {}  # that text and the empty prompt; `embedded` reads them
        self.kv: dict[str, tuple[Any, Any]] = {}  # keys and values of every self-attention in one forward

    def embedded(self, rows: int) -> tuple[Text, Text]:
        """The test text ``rows`` times and the empty prompt, in the U-Net's dtype; encoded once, which is slow."""
        dtype = self.policy.unet.dtype
        if dtype not in self.words:
            self.words[dtype] = self.policy.embed([self.text, ""])
        return self.words[dtype][:1].repeat(rows), self.words[dtype][1:]


def listed(names: Iterable[object], limit: int = 4) -> str:
    """The first names of a collection, and how many more there are."""
    found = [str(name) for name in names]
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return ", ".join(found[:limit]) + more
