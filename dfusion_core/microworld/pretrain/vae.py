"""Train the autoencoder: 64x64 pictures to 16x16x4 latents and back (diffusers ``AutoencoderKL``).

reads  build/data   writes  weights/vae, build/latents.npy, build/decoded.npy
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL

from ..locate import WEIGHTS
from .data import BUILD, load
from .loop import fit, rows_at
from .record import record

STEPS, BATCH, LR = 1_500, 16, 2e-3
DECODED = 8_000  # pictures of the training split that are kept decoded, for augmentation
KL_WEIGHT = 2e-3  # per latent element: enough that the latents' noise teaches the decoder some tolerance


def build() -> AutoencoderKL:
    """An untrained autoencoder of the shipped size."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64), down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3, latent_channels=4, layers_per_block=1, norm_num_groups=8,
        sample_size=64, mid_block_add_attention=False, force_upcast=False)


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 pictures to floats in [-1, 1]."""
    return images.float() / 127.5 - 1


def reconstruction_loss(vae: AutoencoderKL, x: torch.Tensor) -> torch.Tensor:
    """Squared plus absolute error in pixels, plus the weighted KL to a unit normal per latent element."""
    posterior = vae.encode(x).latent_dist
    y = vae.decode(posterior.sample()).sample
    return (y - x).square().mean() * 4 + (y - x).abs().mean() + KL_WEIGHT * posterior.kl().mean() / 1024


@torch.no_grad()
def encode_all(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Mean latents (n, 4, 16, 16), not yet scaled."""
    return torch.cat([vae.encode(to_float(part)).latent_dist.mean for part in images.split(256)])


@torch.no_grad()
def decode_all(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """uint8 pictures (n, 3, 64, 64) of unscaled latents."""
    parts = [vae.decode(part).sample for part in latents.split(64)]
    return torch.cat([((p.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8) for p in parts])


def main() -> None:
    """Train, set the scaling factor that gives the latents unit variance, and cache what later steps need."""
    torch.manual_seed(1)
    images, _, _ = load()
    vae = build()
    def loss_at(step: int) -> torch.Tensor:
        return reconstruction_loss(vae, to_float(images[rows_at(step, BATCH, len(images))]))

    fit(vae.parameters(), loss_at, steps=STEPS, lr=LR, name="vae")
    latents = encode_all(vae.eval(), images)
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    np.save(BUILD / "latents.npy", (latents * vae.config.scaling_factor).numpy())
    held_out, _, _ = load("held_out")
    again = decode_all(vae, encode_all(vae, held_out))
    error = (again.float() - held_out.float()).square().mean(dim=(1, 2, 3))
    psnr = float((10 * torch.log10(255**2 / error)).mean())
    print(f"vae held-out PSNR {psnr:.2f} dB", flush=True)
    np.save(BUILD / "decoded.npy", decode_all(vae, latents[:DECODED]).numpy())
    vae.half().save_pretrained(WEIGHTS / "vae")
    record("vae", WEIGHTS / "vae", held_out_psnr=round(psnr, 2))


if __name__ == "__main__":
    main()
