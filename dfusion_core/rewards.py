"""R(x_0, c): how well a picture shows its prompt. Here the raw CLIP cosine, as the authors compute it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from .artefacts import reward_source
from .errors import RewardError, one_line

if TYPE_CHECKING:
    from .params import Reward


class Scorer(Protocol):
    """Anything that scores pictures (n, height, width, 3) uint8 against n prompts, higher is better."""

    def __call__(self, pictures: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]: ...

    def embed_pictures(self, pictures: NDArray[np.uint8]) -> torch.Tensor:
        """Unit-length embeddings (n, d) for figures of likeness; no score depends on them."""
        ...


class ClipScore:
    """CLIPScore through open_clip: the cosine of picture and prompt, neither scaled nor clipped."""

    def __init__(self, name: str, pretrained: str | None, batch_size: int, device: torch.device) -> None:
        """Load a model by open_clip's name, "local-dir:FOLDER", or "micro-clip" for the built-in one.

        Raises RewardError.
        """
        import open_clip

        source = reward_source(name)
        tag = None if source.startswith(("local-dir:", "hf-hub:")) else pretrained
        try:
            self.model, _, self.preprocess = open_clip.create_model_and_transforms(
                source, pretrained=tag, device=device)
            self.tokenizer: Any = open_clip.get_tokenizer(source)
        except (OSError, RuntimeError, ValueError) as error:
            raise RewardError(
                f"reward: '{name}' cannot be loaded: {one_line(error)}.",
                "Set reward.model to a name that open_clip knows, local-dir:FOLDER, or micro-clip.") from error
        self.model.eval()
        self.batch_size, self.device = batch_size, device

    @torch.no_grad()
    def embed_pictures(self, pictures: NDArray[np.uint8]) -> torch.Tensor:
        """Unit-length image embeddings (n, d)."""
        from PIL import Image

        parts = []
        for start in range(0, len(pictures), self.batch_size):
            batch = [self.preprocess(Image.fromarray(p)) for p in pictures[start:start + self.batch_size]]
            parts.append(self.model.encode_image(torch.stack(batch).to(self.device), normalize=True))
        return torch.cat(parts).float().cpu()

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Unit-length text embeddings (n, d); each different prompt is encoded once."""
        distinct = list(dict.fromkeys(prompts))
        tokens = self.tokenizer(distinct).to(self.device)
        found: torch.Tensor = self.model.encode_text(tokens, normalize=True).float().cpu()
        number = {prompt: i for i, prompt in enumerate(distinct)}
        return found[[number[prompt] for prompt in prompts]]

    def __call__(self, pictures: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """Cosines (n,) of n pictures with their prompts."""
        if not len(pictures):
            return np.zeros(0, np.float32)
        cosine = (self.embed_pictures(pictures) * self.embed_prompts(prompts)).sum(dim=1)
        return cosine.numpy().astype(np.float32)


def load_reward(reward: Reward, device: torch.device) -> Scorer:
    """The reward that the parameters name."""
    return ClipScore(reward.model, reward.pretrained, reward.batch_size, device)
