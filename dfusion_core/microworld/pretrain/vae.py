"""Train the autoencoder: 64x64 pictures to 16x16x4 latents and back (diffusers ``AutoencoderKL``).

reads  build/data   writes  weights/vae, build/latents
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL

from .data import decoded_file, latents_file, load
from .loop import Batch, fit, rows_at
from .record import record
from .settings import settings

STEPS, BATCH, LR = 1_500, 16, 2e-3
DECODED = 8_000  # decoded pictures of the training split, for augmentation
KL_WEIGHT = 2e-3  # per latent element: large enough that the decoder tolerates noise in latents


def build() -> AutoencoderKL:
    """An untrained autoencoder of the shipped size."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 pictures to floats in [-1, 1]."""
    return images.float() / 127.5 - 1


def reconstruction_loss(vae: AutoencoderKL, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Squared plus absolute error in pixels, plus the weighted KL to a unit normal per latent element.

    noise: standard normal, of the latents' shape.
    """
    posterior = vae.encode(x).latent_dist
    y = vae.decode(posterior.mean + posterior.std * noise).sample
    return (y - x).square().mean() * 4 + (y - x).abs().mean() + KL_WEIGHT * posterior.kl().mean() / 1024


def shard(number: int, count: int) -> Batch:
    """Rows of pictures, and the noise of their latents."""
    noise = torch.randn(BATCH, 4, 16, 16, generator=torch.Generator().manual_seed(number))
    return {"rows": rows_at(number, BATCH, count), "noise": noise}


@torch.no_grad()
def encode_all(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Mean latents (n, 4, 16, 16), not yet scaled, on the CPU."""
    return torch.cat([vae.encode(to_float(part.to(vae.device))).latent_dist.mean.cpu() for part in images.split(256)])


@torch.no_grad()
def decode_all(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """uint8 pictures (n, 3, 64, 64) of unscaled latents, on the CPU."""
    parts = [vae.decode(part.to(vae.device)).sample.cpu() for part in latents.split(64)]
    return torch.cat([((p.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8) for p in parts])


def write_latents(vae: AutoencoderKL, composition: str) -> None:
    """Scaled latents of a composition's training pictures."""
    latents = encode_all(vae, load(composition)[0])
    file = latents_file(composition)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, (latents * vae.config.scaling_factor).numpy())


def psnr(vae: AutoencoderKL, images: torch.Tensor) -> float:
    """Mean peak signal-to-noise ratio (dB) of pictures that are encoded and decoded."""
    error = (decode_all(vae, encode_all(vae, images)).float() - images.float()).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(255**2 / error)).mean())


def main() -> None:
    """Train on scattered pictures, set the scaling factor that gives their latents unit variance, and cache what later
    steps need."""
    torch.manual_seed(1)
    chosen = settings().composition
    images = load("scattered")[0]
    vae, pictures = build().to(settings().on), images.to(settings().on)

    def loss_of(batch: Batch) -> torch.Tensor:
        return reconstruction_loss(vae, to_float(pictures[batch["rows"]]), batch["noise"])

    fit(vae.parameters(), lambda number: shard(number, len(images)), loss_of, steps=STEPS, lr=LR, name="vae")
    vae.register_to_config(scaling_factor=round(1 / encode_all(vae.eval(), images).std().item(), 5))
    for composition in dict.fromkeys(["scattered", chosen]):
        write_latents(vae, composition)
    latents = torch.from_numpy(np.load(latents_file(chosen))[:DECODED]) / vae.config.scaling_factor
    np.save(decoded_file(), decode_all(vae, latents).numpy())
    found = psnr(vae, load(chosen, "held_out")[0])
    print(f"vae held-out PSNR {found:.2f} dB", flush=True)
    vae.half().cpu().save_pretrained(settings().weights_folder / "vae")
    record("vae", settings().weights_folder / "vae", held_out_psnr=round(found, 2))


if __name__ == "__main__":
    main()
