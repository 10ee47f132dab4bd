"""The U-Net (diffusers ``UNet2DConditionModel``), its batches and its loss, for both trainings.

Noise prediction on cached latents; in `unet.py` with captions that are sometimes wrong (`captions.py`) and with the
transfer objective (`transfer.py`). Min-SNR weighting (Hang et al. 2023, gamma 5), exponential moving average of the
weights. Attention is not supervised.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from . import transfer
from .captions import Captions
from .data import latents_file, load_captions
from .loop import Batch, fit, rows_at
from .settings import settings
from .text import CONTEXT, prompts

HALF = 16  # references per shard, and as many bases
EMA, GAMMA = 0.998, 5.0


def build() -> UNet2DConditionModel:
    """An untrained U-Net with Stable Diffusion's topology: a plain up block before two with cross-attention."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 96, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=96,
        attention_head_dim=4,
        norm_num_groups=16,
        use_linear_projection=True,
    )


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule with leading spacing: 951, 901, ..., 1 at 20 steps."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type="epsilon",
    )


@torch.no_grad()
def embed(texts: list[str]) -> torch.Tensor:
    """Text-encoder outputs (n, CONTEXT, width)."""
    tokenizer = CLIPTokenizer.from_pretrained(settings().weights_folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(settings().weights_folder / "text_encoder").eval()
    tokens = tokenizer(texts, padding="max_length", max_length=CONTEXT, return_tensors="pt").input_ids
    return encoder(tokens).last_hidden_state


def min_snr_weight(abar: torch.Tensor) -> torch.Tensor:
    """min(SNR, gamma) / SNR for noise prediction, SNR = abar / (1 - abar)."""
    snr = abar / (1 - abar)
    return snr.clamp(max=GAMMA) / snr


def following(average: UNet2DConditionModel, model: UNet2DConditionModel) -> Callable[[int], None]:
    """The callback after a step: updates the averaged weights, with a rate that decreases during training."""
    ours, theirs = list(average.parameters()), list(model.parameters())

    @torch.no_grad()
    def after_step(step: int) -> None:
        torch._foreach_lerp_(ours, theirs, 1 - min(EMA, (1 + step) / (10 + step)))

    return after_step


class Shards:
    """Shards of HALF references and as many bases, with their captions.

    ``caption`` (n,) is the number of each latent's caption. Shards with a transfer give both the same caption and
    timestep; in the others the two halves are independent and M is empty. ``seed``: of all shards.
    """

    def __init__(self, caption: torch.Tensor, captions: Captions, transfer_share: float, seed: int) -> None:
        self.caption, self.captions, self.share, self.seed = caption, captions, transfer_share, seed
        self.partner = transfer.partners(caption)

    def __call__(self, number: int) -> Batch:
        """The shard of this number; first dimension: pair, second: reference, base."""
        g = torch.Generator().manual_seed(self.seed + number)
        first = rows_at(number, HALF, len(self.caption), self.seed)
        if bool(torch.rand(1, generator=g) < self.share):
            rows = torch.stack([first, self.partner(first, g)], dim=1)
            M = transfer.masks(HALF, g)
            timestep = torch.randint(transfer.EARLIEST, 1000, (HALF, 1), generator=g).expand(-1, 2)
            text = self.captions.told(self.caption[first], g)[:, None].expand(-1, 2)
        else:
            rows = torch.stack([first, rows_at(number, HALF, len(self.caption), self.seed + 1)], dim=1)
            M = torch.zeros(HALF, transfer.MASK, transfer.MASK, dtype=torch.bool)
            timestep = torch.randint(0, 1000, (HALF, 2), generator=g)
            text = self.captions.told(self.caption[rows].flatten(), g).view(HALF, 2)
        noise = torch.randn(HALF, 2, 4, 16, 16, generator=g)
        return {"rows": rows, "text": text.contiguous(), "timestep": timestep.contiguous(), "noise": noise, "M": M}


class Objective:
    """The loss of a batch; tables of latents and embeddings are on the device of the U-Net."""

    def __init__(self, unet: UNet2DConditionModel, latents: torch.Tensor, texts: torch.Tensor) -> None:
        self.unet, self.latents, self.texts = unet, latents.to(unet.device), texts.to(unet.device)
        self.abar = scheduler().alphas_cumprod.to(unet.device)
        self.transfer = transfer.Transfer(unet)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Weighted squared error of the noise of the target images."""
        rows, text, timestep, noise = (
            batch[k].transpose(0, 1).flatten(0, 1) for k in ("rows", "text", "timestep", "noise")
        )
        x_0, abar = self.latents[rows], self.abar[timestep]
        a, s = abar.sqrt().view(-1, 1, 1, 1), (1 - abar).sqrt().view(-1, 1, 1, 1)
        x_t = a * x_0 + s * noise
        self.transfer.local.M = batch["M"]
        eps = self.unet(x_t, timestep, self.texts[text]).sample
        want = transfer.wanted_noise(x_t, transfer.wanted_images(x_0, batch["M"]), abar)
        return ((eps - want).square().mean(dim=(1, 2, 3)) * min_snr_weight(abar)).mean()


def write_index(folder: Path) -> None:
    """Write model_index.json."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.0",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def save(average: UNet2DConditionModel, folder: Path) -> None:
    """Save in half precision: 9.5 MB instead of 19."""
    copy.deepcopy(average).half().cpu().save_pretrained(folder)


def train(
    unet: UNet2DConditionModel,
    composition: str,
    wrong: Mapping[str, float],
    transfer_share: float,
    *,
    steps: int,
    lr: float,
    seed: int,
    name: str,
) -> UNet2DConditionModel:
    """Train on the pictures of a composition; returns the averaged weights."""
    on, texts = settings().on, prompts()
    number = {text: i for i, text in enumerate(texts)}
    caption = torch.tensor([number[c] for c in load_captions(composition)])
    latents = torch.from_numpy(np.load(latents_file(composition)))
    unet.to(on)
    if on.type == "cpu":  # convolutions on it are faster with channels last
        unet.to(memory_format=torch.channels_last)
    average = copy.deepcopy(unet).requires_grad_(False)
    fit(
        unet.parameters(),
        Shards(caption, Captions.of(texts, wrong), transfer_share, seed),
        Objective(unet, latents, embed([*texts, ""])),
        steps=steps,
        lr=lr,
        weight_decay=1e-2,
        after_step=following(average, unet),
        name=name,
    )
    return average
