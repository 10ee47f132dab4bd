"""How to use an exported adapter in diffusers, ComfyUI and A1111: a section of the model card."""

from __future__ import annotations

import json

from ...models.builtin import MICROWORLD, MICROWORLD_FLOW, model_name
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
    if base.id == MICROWORLD_FLOW:
        return "This program alone runs the built-in transformer: it has one CLIP where diffusers' pipeline wants two."
    code = "\n".join([*loading(trained, base), *generating(trained, base, trained.prompts("train")[0], repository)])
    return f"diffusers:\n\n{md.fence(code, 'python')}\n\n{programs(base, name, trained.model.lora)}"


def loading(trained: Trained, base: Base) -> list[str]:
    """Lines that load the base model, with model.vae and model.lora if they are set."""
    vae, lora, built_in = trained.model.vae, trained.model.lora, base.id == MICROWORLD
    names = [*(["AutoencoderKL"] if vae else []), *([] if base.flow else ["DDIMScheduler"]), base.pipeline]
    where = "WEIGHTS" if built_in else json.dumps(base.id)
    return [
        f"from diffusers import {', '.join(names)}",
        *(["from dfusion_core.models.builtin import WEIGHTS"] if built_in else []),
        "",
        *([f"vae = AutoencoderKL.from_pretrained({json.dumps(model_name(vae))})"] if vae else []),
        f"pipe = {base.pipeline}.from_pretrained({where}{', vae=vae' if vae else ''})",
        *([] if base.flow else DDIM),
        *(
            [
                "# the base model has this LoRA already: bring it from where it is, strength 1",
                f"pipe.load_lora_weights({json.dumps(model_name(lora))})",
                "pipe.fuse_lora()",
                "pipe.unload_lora_weights()",
            ]
            if lora
            else []
        ),
    ]


def generating(trained: Trained, base: Base, prompt: str, repository: str) -> list[str]:
    """Lines that load the adapter and make a picture with the settings of sampling."""
    sample = trained.sample
    width, height = trained.size
    where = json.dumps(repository or "FOLDER_OR_REPOSITORY_OF_THIS_CARD")
    noise = "" if base.flow else f", eta={sample.eta}"
    size = f", height={height}, width={width}" if sample.height or sample.width else ""
    negative = json.dumps(sample.negative_prompt)
    return [
        "pipe.load_lora_weights(",
        f"    {where}, weight_name={json.dumps(FILE)})",
        f"image = pipe({json.dumps(prompt)}, num_inference_steps={sample.num_steps},",
        *([f"             negative_prompt={negative},"] if sample.negative_prompt else []),
        f"             guidance_scale={sample.guidance_scale}{noise}{size}).images[0]",
    ]


def programs(base: Base, name: str, lora: str | None = None) -> str:
    """ComfyUI and A1111; ``lora``: the model.lora of the run."""
    with_it = (
        f" It was trained on top of the LoRA {md.text(model_name(lora))}: load that as well, with strength 1."
        if lora
        else ""
    )
    if not base.known:
        return (
            "ComfyUI and A1111 know Stable Diffusion and FLUX. This base model is none of "
            f"them, so `{name}.safetensors` is of use to diffusers alone."
        )
    return (
        f"ComfyUI: put `{name}.safetensors` into `models/loras`, and use the node LoraLoaderModelOnly with "
        f"strength 1.\n\nA1111: put it into `models/Lora`, and write `<lora:{name}:1>` into the prompt.\n\n"
        f"Strength 1 is what was trained; alpha equals the rank. The text encoder is the base model's.{with_it}"
    )
