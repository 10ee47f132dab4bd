"""R(x_0, c): how well a picture shows its prompt: the raw CLIP cosine of the authors' code, and what a user adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

if TYPE_CHECKING:
    from ..params import Reward

Pictures = NDArray[np.uint8]  # (n, row, column, rgb)


@dataclass(frozen=True)
class Scores:
    """What n pictures got.

    reward: (n,), higher is better. terms: the single rewards (n,) by name, unweighted: ``clip``, the CLIPScore, and
    each plug-in. embedding: (n, d), CLIP's view of the pictures, unit length; figures of likeness need it.
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
        if tag == "":  # open_clip would go on with random weights
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
        except Exception as error:  # what damaged or foreign files make open_clip raise is of any kind
            raise RewardError(
                f"reward: '{name}' cannot be loaded: {one_line(error)}.",
                "Set reward.model to a name that open_clip knows, local-dir:FOLDER, or micro-clip; reward.pretrained "
                "to weights of it or a file of them.",
            ) from error
        check_vocabulary(name, self.model, self.tokenizer)
        self.model.eval()
        self.preprocess = on_tensors(transform)
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

        Raises RewardError if a plug-in returns something else, NotFinite for a score that is NaN or infinite.
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

    def identity(self) -> dict[str, Any]:
        """Which models gave the scores: names, weights in the sum, and a sha256 of each model's tensors."""
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
                raise RewardError(
                    f"reward.plugins: '{name}' must return {len(batch)} finite numbers for {len(batch)} pictures, "
                    f"not {_shown(found)}.",
                    "See docs/rewards.md for what a plug-in is given and returns.",
                )
            parts.append(found.float().cpu())
        return torch.cat(parts)


def load_reward(reward: Reward, device: torch.device, people: Plugin | None = None) -> Scorer:
    """The reward that the parameters name. Raises RewardError.

    people: their preferences about the images that are to be scored, which ``reward.human`` weighs. Without them, as
    for evaluation images, the reward is the rest of the sum; where that is nothing, CLIPScore with weight 1.
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
    """Raise RewardError where a tokenizer of transformers does not have the text tower's size."""
    inner, rows = getattr(tokenizer, "tokenizer", None), getattr(model, "vocab_size", None)
    rows = rows or getattr(getattr(model, "text", None), "vocab_size", None)
    if inner is not None and rows is not None and not rows - PADDING < len(inner) <= rows:
        raise RewardError(
            f"reward: the tokenizer of '{name}' has {len(inner)} entries, and its text tower knows {rows}.",
            "Get the reward model's files once more.",
        )


def channels_first(pictures: Pictures) -> torch.Tensor:
    """(n, row, column, rgb) as a tensor (n, rgb, row, column), still uint8."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)


def on_tensors(transform: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """open_clip's preprocessing of PIL pictures, for a batch of uint8 tensors on any device.

    The very transforms that open_clip made are applied, but for those that turn an RGB picture into a tensor. A model
    with a transform that is not known to treat tensors as it treats pictures goes through PIL, one picture at a time.
    """
    steps = tensor_steps(transform)
    if steps is None:
        return lambda pictures: torch.stack([transform(_pil(one)) for one in pictures.cpu()]).to(pictures.device)
    from torchvision.transforms import Normalize, Resize

    def preprocess(pictures: torch.Tensor) -> torch.Tensor:
        for step in steps:
            if isinstance(step, Resize):
                pictures = resize(step, pictures)
            else:
                pictures = step(pictures / 255 if isinstance(step, Normalize) else pictures)
        return pictures

    return preprocess


def resize(step: Any, pictures: torch.Tensor) -> torch.Tensor:
    """torchvision's Resize of uint8 pictures (n, 3, height, width) as PIL computes it.

    PIL resizes rows, rounds to 0..255, then resizes columns. Both at once, as tensors are by default, differ by up to
    22 grey levels where bicubic interpolation overshoots.
    """
    from torchvision.transforms.functional import resize

    height, width = pictures.shape[-2:]
    if isinstance(step.size, int) or len(step.size) == 1:  # the shorter side
        size = step.size if isinstance(step.size, int) else step.size[0]
        high, wide = (size, int(size * width / height)) if height <= width else (int(size * height / width), size)
    else:
        high, wide = step.size
    rows = resize(pictures, [height, wide], interpolation=step.interpolation, antialias=True)
    made: torch.Tensor = resize(rows, [high, wide], interpolation=step.interpolation, antialias=True)
    return made


def tensor_steps(transform: Any) -> list[Any] | None:
    """The steps for uint8 tensors, by their types and what they do; None where one of them takes PIL pictures only."""
    from torchvision.transforms import CenterCrop, Normalize, Resize, ToTensor

    steps = [step for step in transform.transforms if not (isinstance(step, ToTensor) or _leaves_rgb(step))]
    known = all(type(step) in (Resize, CenterCrop, Normalize) for step in steps)
    return steps if known and all(getattr(step, "max_size", None) is None for step in steps) else None


def _leaves_rgb(step: Any) -> bool:
    """Whether a step leaves every RGB picture as it is, as the conversion to RGB does: tried on one of noise."""
    if isinstance(step, torch.nn.Module):
        return False
    shown = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    after = step(_pil(torch.from_numpy(shown).permute(2, 0, 1)))
    return getattr(after, "mode", None) == "RGB" and np.array_equal(np.asarray(after), shown)


def _pil(picture: torch.Tensor) -> Any:
    from PIL import Image

    return Image.fromarray(picture.permute(1, 2, 0).numpy())


def _shown(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    return f"a tensor of shape {tuple(value.shape)}, of which {int((~value.isfinite()).sum())} are NaN or infinite"
