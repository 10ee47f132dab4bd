"""The base model of an adapter: its family, name and licence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ...models.builtin import BUILT_IN, model_name
from ...params.strict_yaml import parse_yaml

SD_WIDTHS = (320, 640, 1280, 1280)
FAMILIES = {768: "sd_v1", 1024: "sd_v2"}  # key: width of the text encoder
SDXL_WIDTH = 2048
T5_WIDTH = 4096  # of the text of SD 3 and FLUX
FLOW = "flow"
# ModelSpec's names of what kohya's tools call ss_base_model_version
ARCHITECTURES = {
    "sd_v1": "stable-diffusion-v1",
    "sd_v2": "stable-diffusion-v2-512",
    "sd_v2_v": "stable-diffusion-v2-768-v",
    "sdxl_base_v1-0": "stable-diffusion-xl-v1-base",
    "sd3": "stable-diffusion-3",
    "flux1": "flux-1-dev",
}


class Licence(NamedTuple):
    """The Hub's id of a licence, its title, and the address of its text."""

    id: str
    title: str
    link: str


SD1 = Licence(
    "creativeml-openrail-m", "CreativeML Open RAIL-M", "https://github.com/CompVis/stable-diffusion/blob/main/LICENSE"
)
SD2 = Licence(
    "openrail++", "CreativeML Open RAIL++-M", "https://github.com/Stability-AI/stablediffusion/blob/main/LICENSE-MODEL"
)
SDXL = Licence(
    "openrail++",
    "CreativeML Open RAIL++-M",
    "https://github.com/Stability-AI/generative-models/blob/main/model_licenses/LICENSE-SDXL1.0",
)
OPEN = Licence("apache-2.0", "Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0")
SD3 = Licence("other", "Stability AI Community License", "https://stability.ai/community-license-agreement")
FLUX = Licence(
    "other",
    "FLUX.1 [dev] Non-Commercial License",
    "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
)
UNKNOWN = Licence("other", "not known", "")
# Mirrors keep the name of the model; the licence of the weights is the same there.
NAMES = {
    r"stable-diffusion-v1-[1-5]": SD1,
    r"stable-diffusion-2(-1)?(-base)?": SD2,
    r"stable-diffusion-xl-base-[\d.]+": SDXL,
    r"stable-diffusion-3(\.5)?-(medium|large)(-diffusers)?": SD3,
    r"FLUX\.1-dev": FLUX,
}


@dataclass(frozen=True)
class Base:
    """``id``: a name on the Hub, or the last part of a local path. ``version``: the name in
    kohya's tools, or ``id`` for other networks. ``sgm``: kohya's tools use the layer names of SDXL's own code.
    ``flow``: a transformer that was trained by flow matching."""

    id: str
    on_hub: bool
    version: str
    v_prediction: bool
    sgm: bool
    licence: Licence
    flow: bool = False

    @property
    def pipeline(self) -> str:
        """The class in diffusers."""
        if self.flow:
            return "FluxPipeline" if self.version == "flux1" else "StableDiffusion3Pipeline"
        return "StableDiffusionXLPipeline" if self.sgm else "StableDiffusionPipeline"

    @property
    def known(self) -> bool:
        """Whether ComfyUI and A1111 can run this model."""
        return self.version in ARCHITECTURES


def identify(model_id: str, unet: Any, prediction_type: str) -> Base:
    """The base model of an adapter. ``unet`` is its network's config, ``prediction_type`` the scheduler's, or FLOW."""
    name = model_name(model_id)
    v_prediction = prediction_type == "v_prediction"
    return Base(
        id=name,
        on_hub=bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)),
        version=(flow_family(unet) if prediction_type == FLOW else family(unet, v_prediction)) or name,
        v_prediction=v_prediction,
        sgm=prediction_type != FLOW and unet.addition_embed_type == "text_time",
        licence=licence(model_id),
        flow=prediction_type == FLOW,
    )


def family(unet: Any, v_prediction: bool) -> str | None:
    """kohya's name of the U-Net's family, or None for other architectures than Stable Diffusion's."""
    if unet.addition_embed_type == "text_time":
        return "sdxl_base_v1-0" if unet.cross_attention_dim == SDXL_WIDTH else None
    if tuple(unet.block_out_channels) != SD_WIDTHS or unet.cross_attention_dim not in FAMILIES:
        return None
    found = FAMILIES[unet.cross_attention_dim]
    return f"{found}_v" if v_prediction and found == "sd_v2" else found


def flow_family(config: Any) -> str | None:
    """sd3 or flux1, or None for a transformer that is neither by its sizes."""
    if config.joint_attention_dim != T5_WIDTH:
        return None
    return "flux1" if "guidance_embeds" in config else "sd3"


def licence(model_id: str) -> Licence:
    """The licence of known weights, of the built-in model, or the one that a local folder's model card names."""
    if model_id in BUILT_IN:
        return OPEN
    for pattern, known in NAMES.items():
        if re.fullmatch(pattern, Path(model_id).name):
            return known
    named = _licence_of_card(Path(model_id) / "README.md")
    return Licence(named, named, "") if named else UNKNOWN


def _licence_of_card(card: Path) -> str:
    """The entry ``license`` of a model card, or nothing."""
    try:
        _, head, _ = card.read_text(encoding="utf-8").split("---\n", 2)
        found = parse_yaml(head)["license"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return found if isinstance(found, str) and re.fullmatch(r"[\w.+-]+", found) else ""
