"""open_clip's preprocessing, for batches of uint8 tensors on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pictures = NDArray[np.uint8]


def channels_first(pictures: Pictures) -> torch.Tensor:
    """(n, row, column, rgb) as a tensor (n, rgb, row, column), still uint8."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)


def on_tensors(transform: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """open_clip's preprocessing of PIL pictures, for a batch of uint8 tensors on any device.

    The transforms that open_clip made are applied, except those that convert an RGB picture to a tensor. If a transform
    is not known to treat tensors like pictures, pictures are converted by PIL one at a time.
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


def left_out(transform: Any, height: int, width: int) -> float:
    """The share of a picture outside the central square that the model sees."""
    from torchvision.transforms import CenterCrop, Resize

    high, wide, seen = float(height), float(width), 1.0
    for step in transform.transforms:
        if isinstance(step, Resize):
            sides = [step.size] if isinstance(step.size, int) else list(step.size)
            high, wide = sides if len(sides) == 2 else (sides[0] * side / min(high, wide) for side in (high, wide))
        elif isinstance(step, CenterCrop):
            seen *= min(1.0, step.size[0] / high) * min(1.0, step.size[1] / wide)
    return 1 - seen


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
    """The steps for uint8 tensors; None if one of them takes PIL pictures only."""
    from torchvision.transforms import CenterCrop, Normalize, Resize, ToTensor

    steps = [step for step in transform.transforms if not (isinstance(step, ToTensor) or _leaves_rgb(step))]
    known = all(type(step) in (Resize, CenterCrop, Normalize) for step in steps)
    return steps if known and all(getattr(step, "max_size", None) is None for step in steps) else None


def _leaves_rgb(step: Any) -> bool:
    """Whether a step does not change RGB pictures, as the conversion to RGB; tried on a picture of noise."""
    if isinstance(step, torch.nn.Module):
        return False
    shown = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    after = step(_pil(torch.from_numpy(shown).permute(2, 0, 1)))
    return getattr(after, "mode", None) == "RGB" and np.array_equal(np.asarray(after), shown)


def _pil(picture: torch.Tensor) -> Any:
    from PIL import Image

    return Image.fromarray(picture.permute(1, 2, 0).numpy())
