"""Results of checks that later ones need."""

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


class Facts:
    """Each attribute is set by one check; a check that reads it names that one in ``Check.needs``."""

    params: Everything
    prompts: tuple[Prompt, ...]  # training prompts
    unseen: tuple[Prompt, ...]  # test prompts
    device: torch.device
    dtype: torch.dtype
    source: Source
    policy: Policy
    size: tuple[int, int]  # (height, width) of the test latents
    reward: Scorer

    def __init__(self, file: Path) -> None:
        self.file = file
        self.text = "a picture"  # prompt of test images if no prompt file can be read
        self.words: dict[torch.dtype, Text] = {}  # that text; `embedded` reads it
        self.kv: dict[str, tuple[Any, Any]] = {}  # keys and values of every self-attention in one forward pass

    def embedded(self, rows: int) -> Text:
        """The test text ``rows`` times, in the network's dtype; encoded once, because this is slow."""
        dtype = self.policy.unet.dtype
        if dtype not in self.words:
            self.words[dtype] = self.policy.embed([self.text])
        return self.words[dtype].repeat(rows)

    def latent(self, size: tuple[int, int]) -> torch.Tensor:
        """A random latent (1, c, *size) of unit variance, the same each time."""
        import torch

        seeded = torch.Generator().manual_seed(0)
        return torch.randn(1, self.policy.latent_shape[0], *size, generator=seeded).to(self.policy.device)


def listed(names: Iterable[object], limit: int = 4) -> str:
    """The first names of a collection, and how many more there are."""
    found = [str(name) for name in names]
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return ", ".join(found[:limit]) + more
