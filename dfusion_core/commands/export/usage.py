"""How to use an exported adapter in diffusers, ComfyUI and A1111: a section of the model card."""

from __future__ import annotations

import json

from ...models.builtin import MICROWORLD, MICROWORLD_FLOW
from ...models.lora import FILE
from . import markdown as md
from .base_model import Base
from .trained import Trained

DDIM = (
    "pipe.scheduler = DDIMScheduler.from_config(",
    "    pipe.scheduler.config, clip_sample=False, set_alpha_to_one=False)",
)


def usage(trained: Trained, base: Base, name: str, repository: str = "") -> str:
    """Code for diffusers, and steps for the two programs if they can run the base model."""
    sample, prompts = trained.sample, trained.prompts("train")
    if base.id == MICROWORLD_FLOW:
        return "This program alone runs the built-in transformer: it has one CLIP where diffusers' pipeline wants two."
    pipeline = base.pipeline
    noise = "" if base.flow else f", eta={sample.eta}"
    built_in = base.id == MICROWORLD
    where = json.dumps(repository or "FOLDER_OR_REPOSITORY_OF_THIS_CARD")
    code = "\n".join(
        [
            f"from diffusers import {pipeline}" if base.flow else f"from diffusers import DDIMScheduler, {pipeline}",
            *(["from dfusion_core.models.builtin import WEIGHTS"] if built_in else []),
            "",
            f"pipe = {pipeline}.from_pretrained({'WEIGHTS' if built_in else json.dumps(base.id)})",
            *([] if base.flow else DDIM),
            "pipe.load_lora_weights(",
            f"    {where}, weight_name={json.dumps(FILE)})",
            f"image = pipe({json.dumps(prompts[0])}, num_inference_steps={sample.num_steps},",
            f"             guidance_scale={sample.guidance_scale}{noise}).images[0]",
        ]
    )
    return f"diffusers:\n\n{md.fence(code, 'python')}\n\n{programs(base, name)}"


def programs(base: Base, name: str) -> str:
    """ComfyUI and A1111."""
    if not base.known:
        return (
            "ComfyUI and A1111 know Stable Diffusion and FLUX. This base model is none of "
            f"them, so `{name}.safetensors` is of use to diffusers alone."
        )
    return (
        f"ComfyUI: put `{name}.safetensors` into `models/loras`, and use the node LoraLoaderModelOnly with "
        f"strength 1.\n\nA1111: put it into `models/Lora`, and write `<lora:{name}:1>` into the prompt.\n\n"
        "Strength 1 is what was trained; alpha equals the rank. The text encoder is the base model's."
    )
