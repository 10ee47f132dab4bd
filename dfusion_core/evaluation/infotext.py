"""The text that A1111 and image browsers read from a PNG: the prompt, then `Steps: 20, Sampler: DDIM, ...`."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, NamedTuple

from .. import __version__

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..params import Sample

KEY = "parameters"  # of the PNG's text chunk


class Adapter(NamedTuple):
    """The name and the hash of the LoRA that a picture was made with."""

    name: str
    hash: str


def pictures_text(
    sample: Sample,
    *,
    size: tuple[int, int],
    model: str,
    prompt: str = "",
    seed: int | None = None,
    adapter: Adapter | None = None,
    flow: bool = False,
) -> str:
    """Generation parameters in A1111's form; without prompt and seed, the parameters common to a sheet.

    size: (width, height). Other programs generate other noise from the same seed.
    flow: whether the model is a rectified flow.
    """
    sampler = "Flow SDE" if flow else "DDIM"
    fields: dict[str, object] = {"Steps": sample.num_steps, "Sampler": sampler, "CFG scale": sample.guidance_scale}
    if seed is not None:
        fields["Seed"] = seed
    fields |= {"Size": f"{size[0]}x{size[1]}", "Model": model, "Eta" if flow else "Eta DDIM": sample.eta}
    if adapter:
        fields["Lora hashes"] = f"{adapter.name}: {adapter.hash[:12]}"
    fields["Version"] = f"dfusion {__version__}"
    wanted = " ".join([*prompt.split(), *([f"<lora:{adapter.name}:1>"] if adapter and prompt else [])])
    settings = ", ".join(f"{key}: {_quoted(str(value))}" for key, value in fields.items())
    negative = f"Negative prompt: {' '.join(sample.negative_prompt.split())}" if sample.negative_prompt else ""
    return "\n".join(filter(None, [wanted, negative, settings]))


def _quoted(value: str) -> str:
    """A value with separators of the format, as a JSON string."""
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ',:"\n') else value


def png(picture: NDArray[np.uint8], text: str) -> bytes:
    """A picture (y, x, rgb) as the bytes of a PNG with this text in it."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(KEY, text)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", pnginfo=info)
    return file.getvalue()
