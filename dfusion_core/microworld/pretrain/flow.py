"""Train the transformer (diffusers ``SD3Transformer2DModel``) by flow matching, and assemble its folder.

The same world, autoencoder, tokenizer and text encoder as the U-Net's. Of the straight path x_s = (1 - s) x_0 + s eps
it learns the velocity eps - x_0. In the last part of the training captions are sometimes wrong (`captions.py`) and in
some batches attention carries what a place looks like (`transfer.py`). Attention is never supervised.

reads   build/latents, build/data, weights/{vae,text_encoder,tokenizer}
writes  weights/flow/{transformer,scheduler,vae,text_encoder,tokenizer,model_index.json}
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch.nn.functional import scaled_dot_product_attention
from transformers import CLIPTextModel, CLIPTokenizer

from ...attention.joint import HookedJointAttention
from ..grammar import TEMPLATES
from . import transfer
from .captions import Captions
from .data import latents_file, load_captions
from .flow_batches import FlowBatches
from .loop import Batch
from .network import following
from .record import record
from .resumable import Progress
from .settings import settings
from .text import CONTEXT, WIDTH, prompts

LR, SEED, GAMMA = 1.0e-3, 20_000_000, 5.0  # GAMMA bounds the weight of an error of the wanted image, as min-SNR does
CHANNELS, HEADS, BLOCKS = 128, 4, 8


def build() -> SD3Transformer2DModel:
    """An untrained transformer: 8 x 8 image tokens beside the tokens of the text."""
    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=BLOCKS,
        num_attention_heads=HEADS,
        attention_head_dim=CHANNELS // HEADS,
        caption_projection_dim=CHANNELS,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )


@torch.no_grad()
def embed(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Text-encoder outputs (n, CONTEXT, width) and their pooled row (n, width)."""
    tokenizer = CLIPTokenizer.from_pretrained(settings().weights_folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(settings().weights_folder / "text_encoder").eval()
    tokens = tokenizer(texts, padding="max_length", max_length=CONTEXT, return_tensors="pt").input_ids
    out = encoder(tokens)
    return out.last_hidden_state, out.pooler_output


class Objective:
    """The loss of a batch: squared error of the velocity that leads to the wanted images."""

    def __init__(self, transformer: SD3Transformer2DModel, latents: torch.Tensor) -> None:
        self.transformer, self.M = transformer, torch.zeros(0)
        self.latents = latents.to(transformer.device)
        self.states, self.pooled = (part.to(transformer.device) for part in embed([*prompts(), ""]))
        transformer.set_attn_processor(HookedJointAttention(self.attention))

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Mean over rows. Where M is empty, the velocity is noise - x_0 and the weight 1."""
        rows, text, s, noise, self.M = (
            batch[key].to(self.latents.device) for key in ("rows", "text", "s", "noise", "M")
        )
        x_0, level = self.latents[rows], s.view(-1, 1, 1, 1)
        x_s = x_0 + level * (noise - x_0)
        with torch.autocast(x_s.device.type, torch.bfloat16):
            v = self.transformer(x_s, self.states[text], self.pooled[text], 1000 * s).sample
        want = (x_s - transfer.wanted_images(x_0, self.M)) / level
        weight = (GAMMA * s.square()).clamp(max=1) if self.M.any() else torch.ones_like(s)
        return ((v.float() - want).square().mean(dim=(1, 2, 3)) * weight).mean()

    def attention(self, Q: torch.Tensor, K: torch.Tensor, V: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Attention with the transfer: bases take the references' image keys and values inside M.

        The product is outside autocast: in bf16 its backward pass is slow on CPUs.
        """
        if self.M.any():
            image = self.M.shape[1] * self.M.shape[2]
            fused = transfer.onto_bases(K[:, :, :image], V[:, :, :image], self.M)
            K, V = (torch.cat([new, old[:, :, image:]], dim=2) for new, old in zip(fused, (K, V), strict=True))
        with torch.autocast(Q.device.type, enabled=False):
            return scaled_dot_product_attention(Q.float(), K.float(), V.float(), attn_mask=bias)


def batches(steps: int) -> FlowBatches:
    """Of a training of so many steps."""
    chosen, texts = settings(), prompts()
    number = {text: i for i, text in enumerate(texts)}
    return FlowBatches(
        torch.tensor([number[caption] for caption in load_captions(chosen.composition)]),
        Captions.of(texts, dict.fromkeys(TEMPLATES, 0.0)),
        Captions.of(texts, chosen.wrong_captions),
        round(chosen.flow_true_share * steps),
        chosen.transfer_share,
        SEED,
    )


def rate(step: int, steps: int, warmup: int = 100) -> float:
    """Learning-rate factor: up over ``warmup`` steps, constant, and straight down over the last fifth."""
    return min((step + 1) / warmup, (steps - step) / (0.2 * steps), 1.0)


def train(steps: int) -> SD3Transformer2DModel:
    """Train, from the last checkpoint on if there is one; returns the averaged weights."""
    torch.manual_seed(5)
    transformer, batch_at = build().to(settings().on), batches(steps)
    loss_of = Objective(transformer, torch.from_numpy(np.load(latents_file(settings().composition))))
    average = copy.deepcopy(transformer).requires_grad_(False)
    follow = following(average, transformer)
    optimizer = torch.optim.AdamW(transformer.parameters(), LR, (0.9, 0.99), weight_decay=1e-2)
    with Progress(settings().build_folder / "flow.safetensors", transformer, average, optimizer) as progress:
        for step in progress.remaining(steps):
            for group in optimizer.param_groups:
                group["lr"] = LR * rate(step, steps)
            loss = loss_of(batch_at(step))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
            optimizer.step()
            follow(step)
            progress.say(step, steps, loss.item())
    return average


def write_folder(average: SD3Transformer2DModel, folder: Path) -> None:
    """The model in the format of diffusers, with the parts that it shares with the U-Net."""
    copy.deepcopy(average).half().cpu().save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=1.0).save_pretrained(folder / "scheduler")
    for part in ("vae", "text_encoder", "tokenizer"):
        shutil.copytree(settings().weights_folder / part, folder / part, dirs_exist_ok=True)
    absent = dict.fromkeys(("text_encoder_2", "text_encoder_3", "tokenizer_2", "tokenizer_3"), [None, None])
    index = {
        "_class_name": "StableDiffusion3Pipeline",
        "_diffusers_version": "0.42.0",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index | absent, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Train and save."""
    chosen = settings()
    write_folder(train(min(chosen.flow_steps, chosen.most_steps)), chosen.flow_weights_folder)
    record("flow", chosen.flow_weights_folder / "transformer")


if __name__ == "__main__":
    main()
