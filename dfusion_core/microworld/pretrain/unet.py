"""Train the U-Net (diffusers ``UNet2DConditionModel``) and assemble the Stable-Diffusion-format folder.

Noise prediction on cached latents, min-SNR weighting (Hang et al. 2023, gamma 5), one prompt in ten empty for
classifier-free guidance, exponential moving average of the weights. Attention is never supervised.

reads  build/latents.npy, weights/{text_encoder,tokenizer}   writes  weights/{unet,scheduler,model_index.json}
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from ..locate import WEIGHTS
from .data import BUILD, load
from .loop import fit, rows_at
from .record import record
from .text import CONTEXT, prompts

STEPS, BATCH, LR = 3_300, 32, 1.2e-3
EMA, GAMMA, EMPTY = 0.998, 5.0, 0.1
SNAPSHOT_EVERY = 500


def build() -> UNet2DConditionModel:
    """An untrained U-Net with Stable Diffusion's topology: a plain up block before two with cross-attention."""
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(64, 96, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=96, attention_head_dim=4, norm_num_groups=16, use_linear_projection=True)


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule with leading spacing: 951, 901, ..., 1 at 20 steps."""
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading",
        prediction_type="epsilon")


@torch.no_grad()
def embed(texts: list[str]) -> torch.Tensor:
    """Text-encoder outputs (n, CONTEXT, width)."""
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(WEIGHTS / "text_encoder").eval()
    tokens = tokenizer(texts, padding="max_length", max_length=CONTEXT, return_tensors="pt").input_ids
    return encoder(tokens).last_hidden_state


def min_snr_weight(abar: torch.Tensor) -> torch.Tensor:
    """min(SNR, gamma) / SNR for noise prediction, SNR = abar / (1 - abar)."""
    snr = abar / (1 - abar)
    return snr.clamp(max=GAMMA) / snr


def following(average: UNet2DConditionModel, model: UNet2DConditionModel) -> Callable[[int], None]:
    """What is done after a step: the averaged weights move towards the model's, slower as training goes on."""

    @torch.no_grad()
    def after_step(step: int) -> None:
        decay = min(EMA, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        if (step + 1) % SNAPSHOT_EVERY == 0:
            save(average, BUILD / "snapshot")

    return after_step


@dataclass(frozen=True)
class TrainingSet:
    """Latents (n, 4, 16, 16), the number of each one's caption (n,), and embeddings of all captions (count + 1, ...),
    the empty prompt last."""

    latents: torch.Tensor
    caption: torch.Tensor
    texts: torch.Tensor

    def drop_some(self, text: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Caption numbers, one in ten of them that of the empty prompt."""
        return torch.where(torch.rand(len(text), generator=generator) < EMPTY, len(self.texts) - 1, text)


def training_set() -> TrainingSet:
    """What the steps before wrote."""
    _, captions, _ = load()
    texts = [*prompts(), ""]
    number = {text: i for i, text in enumerate(texts)}
    latents = torch.from_numpy(np.load(BUILD / "latents.npy"))
    return TrainingSet(latents, torch.tensor([number[c] for c in captions]), embed(texts))


def write_index(folder: Path) -> None:
    """The pipeline's table of contents."""
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.0",
             "feature_extractor": [None, None],
             "image_encoder": [None, None], "requires_safety_checker": False, "safety_checker": [None, None],
             "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
             "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
             "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def save(average: UNet2DConditionModel, folder: Path) -> None:
    """Save in half precision: 9.5 MB instead of 19."""
    copy.deepcopy(average).half().save_pretrained(folder)


def main() -> None:
    """Train and save."""
    torch.manual_seed(3)
    data, noise_schedule = training_set(), scheduler()
    abar = noise_schedule.alphas_cumprod
    unet = build()
    average = copy.deepcopy(unet).requires_grad_(False)

    def loss_at(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(step)
        rows = rows_at(step, BATCH, len(data.latents))
        x_0, text = data.latents[rows], data.drop_some(data.caption[rows], generator)
        timestep = torch.randint(0, 1000, (BATCH,), generator=generator)
        noise = torch.randn(x_0.shape, generator=generator)
        x_t = noise_schedule.add_noise(x_0, noise, timestep)
        eps = unet(x_t, timestep, data.texts[text]).sample
        error = (eps - noise).square().mean(dim=(1, 2, 3))
        return (error * min_snr_weight(abar[timestep])).mean()

    fit(unet.parameters(), loss_at, steps=STEPS, lr=LR, weight_decay=1e-2, after_step=following(average, unet),
        name="unet")
    save(average, WEIGHTS / "unet")
    noise_schedule.save_pretrained(WEIGHTS / "scheduler")
    write_index(WEIGHTS)
    record("unet", WEIGHTS / "unet")


if __name__ == "__main__":
    main()
