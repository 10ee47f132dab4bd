"""The reward R(x_0, c): the raw CLIP cosine, as in the authors' code, plus weighted plug-ins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..diffusion.finite import check_finite
from ..errors import RewardError, one_line
from ..models.builtin import local_path, reward_source
from ..models.whole import PADDING
from .folder import check_local
from .identity import HUMAN, RESERVED
from .plugins import Plugin, load_plugin, state_hash
from .preprocessing import channels_first, left_out, on_tensors

if TYPE_CHECKING:
    from ..params import Reward

LEAST_CUT = 0.01  # share of a picture below which there is no warning
Pictures = NDArray[np.uint8]  # (n, row, column, rgb)


@dataclass(frozen=True)
class Scores:
    """Scores of n pictures.

    reward: (n,), higher is better. terms: the single rewards (n,) by name, unweighted: ``clip``, the CLIPScore, and
    each plug-in. embedding: (n, d), CLIP's image embeddings, unit length; used for similarity and diversity.
    """

    reward: NDArray[np.float32]
    terms: dict[str, NDArray[np.float32]]
    embedding: NDArray[np.float32]


class Clip:
    """A CLIP model through open_clip: CLIPScore is the cosine of picture and prompt, neither scaled nor clipped."""

    def __init__(self, name: str, pretrained: str | None, batch_size: int, device: torch.device) -> None:
        """Load a model by open_clip's name, "local-dir:FOLDER", or "micro-clip" for the built-in one.

        Raises RewardError.
        """
        import open_clip

        source = reward_source(name)
        tag = None if source.startswith(("local-dir:", "hf-hub:")) else pretrained
        tag = str(local_path(tag)) if tag and local_path(tag).is_file() else tag
        if tag == "":  # open_clip would continue with random weights
            raise RewardError(
                f"reward.pretrained: is empty, but '{name}' is an architecture without weights.",
                "Name open_clip's weights for it, or a file of weights; reward.model may also be local-dir:FOLDER.",
            )
        check_local(name)
        try:
            self.model, _, transform = open_clip.create_model_and_transforms(
                source, pretrained=tag, device=device, require_pretrained=True
            )  # else random weights
            self.tokenizer: Any = open_clip.get_tokenizer(source)
        except Exception as error:  # damaged or foreign files make open_clip raise any kind of exception
            raise RewardError(
                f"reward: '{name}' cannot be loaded: {one_line(error)}.",
                "Set reward.model to a name that open_clip knows, local-dir:FOLDER, or micro-clip; reward.pretrained "
                "to weights of it or a file of them.",
            ) from error
        check_vocabulary(name, self.model, self.tokenizer)
        self.model.eval()
        self.preprocess, self.left_out = on_tensors(transform), partial(left_out, transform)
        self.name, self.batch_size, self.device = name, batch_size, device

    @torch.no_grad()
    def embed_pictures(self, pictures: Pictures) -> torch.Tensor:
        """Unit-length image embeddings (n, d), fp32 on the CPU."""
        parts = [torch.zeros(0, 0)]
        for start in range(0, len(pictures), self.batch_size):
            batch = channels_first(pictures[start : start + self.batch_size]).to(self.device)
            parts.append(self.model.encode_image(self.preprocess(batch), normalize=True).float().cpu())
        return torch.cat(parts[1:] or parts)

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Unit-length text embeddings (n, d); each different prompt is encoded once."""
        distinct = list(dict.fromkeys(prompts))
        tokens = self.tokenizer(distinct).to(self.device)
        found: torch.Tensor = self.model.encode_text(tokens, normalize=True).float().cpu()
        number = {prompt: i for i, prompt in enumerate(distinct)}
        return found[[number[prompt] for prompt in prompts]]


class Scorer:
    """The reward of params.yaml: CLIPScore times its weight, plus the weighted plug-ins."""

    def __init__(self, clip: Clip, weight: float, plugins: Mapping[str, tuple[Plugin, float]]) -> None:
        self.clip, self.weight, self.plugins = clip, weight, dict(plugins)

    @property
    def terms(self) -> list[str]:
        """The names of ``Scores.terms``."""
        return ["clip", *self.plugins]

    def __call__(self, pictures: Pictures, prompts: Sequence[str]) -> Scores:
        """Score n pictures (n, row, column, rgb) against their n prompts.

        Raises RewardError if a plug-in returns another shape or type, NotFinite for a score that is NaN or infinite.
        """
        if not len(pictures):
            return Scores(np.zeros(0, np.float32), {}, np.zeros((0, 0), np.float32))
        seen = self.clip.embed_pictures(pictures)
        cosine = (seen * self.clip.embed_prompts(prompts)).sum(dim=1)
        total, terms = self.weight * cosine, {"clip": cosine}
        for name, (plugin, weight) in self.plugins.items():
            terms[name] = self._term(name, plugin, pictures, prompts)
            total = total + weight * terms[name]
        check_finite(torch.cat([total[:, None], seen], dim=1), "the score")
        return Scores(total.numpy(), {name: terms[name].numpy() for name in self.terms}, seen.numpy())

    def margins_cut(self, height: int, width: int) -> str:
        """A warning if CLIP does not see all of a picture of this size; empty if it does."""
        share = self.clip.left_out(height, width)
        return (
            f"reward.model '{self.clip.name}' looks at the middle of a picture: of {height}x{width} pixels (height x "
            f"width) {share:.0%} at the edges have no part in the score"
            if share > LEAST_CUT
            else ""
        )

    def identity(self) -> dict[str, Any]:
        """The models of the reward: names, weights in the sum, and a sha256 of each model's tensors."""
        own = {"model": self.clip.name, "weight": self.weight, "sha256": state_hash(self.clip.model.state_dict())}
        others = {
            name: {"weight": weight, "identity": plugin.identity()} for name, (plugin, weight) in self.plugins.items()
        }
        return {"clip": own, "plugins": others}

    def _term(self, name: str, plugin: Plugin, pictures: Pictures, prompts: Sequence[str]) -> torch.Tensor:
        size, parts = self.clip.batch_size, []
        for start in range(0, len(pictures), size):
            batch = channels_first(pictures[start : start + size]).to(self.clip.device)
            try:
                with torch.no_grad():
                    found = plugin(batch, prompts[start : start + size])
            except Exception as error:
                error.add_note(f"reward.plugins: '{name}' raised this.")  # its author needs the traceback
                raise
            if not isinstance(found, torch.Tensor) or found.shape != (len(batch),) or not found.isfinite().all():
                n = len(batch)
                raise RewardError(
                    f"reward.plugins: '{name}' must return {n} finite numbers for {n} pictures, not {_shown(found)}.",
                    "See docs/rewards.md for what a plug-in is given and returns.",
                )
            parts.append(found.float().cpu())
        return torch.cat(parts)


def load_reward(reward: Reward, device: torch.device, people: Plugin | None = None) -> Scorer:
    """The reward that the parameters name. Raises RewardError.

    people: their preferences about the images to score, with the weight ``reward.human``. Without them, as for
    evaluation images, the reward is the rest of the sum, or CLIPScore with weight 1 if there is no rest.
    """
    for name in reward.plugins:
        if name in RESERVED:
            raise RewardError(
                f"reward.plugins: '{name}' is the name of a column in the tables of scores.",
                "Name the plug-in as module:Class, or give its entry point another name.",
            )
    clip = Clip(reward.model, reward.pretrained, reward.batch_size, device)
    plugins = {name: (load_plugin(name, device), weight) for name, weight in reward.plugins.items()}
    if people is not None:
        plugins[HUMAN] = (people, reward.human)
    alone = people is None and reward.human and not reward.weight and not plugins
    return Scorer(clip, 1.0 if alone else reward.weight, plugins)


def check_vocabulary(name: str, model: Any, tokenizer: Any) -> None:
    """Raise RewardError if a tokenizer of transformers does not have the vocabulary size of the text encoder."""
    inner, rows = getattr(tokenizer, "tokenizer", None), getattr(model, "vocab_size", None)
    rows = rows or getattr(getattr(model, "text", None), "vocab_size", None)
    if inner is not None and rows is not None and not rows - PADDING < len(inner) <= rows:
        raise RewardError(
            f"reward: the tokenizer of '{name}' has {len(inner)} entries, and its text tower knows {rows}.",
            "Get the reward model's files once more.",
        )


def _shown(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    return f"a tensor of shape {tuple(value.shape)}, of which {int((~value.isfinite()).sum())} are NaN or infinite"
