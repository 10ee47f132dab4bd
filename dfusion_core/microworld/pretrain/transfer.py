"""A variant of the built-in model, not shipped: self-attention learns to carry what a place looks like.

In Stable Diffusion, an image that is denoised with the self-attention keys and values of another takes over how that
one looks (the paper's Appendix B, Figure 8); D-Fusion lives on it. A small U-Net trained on noise prediction alone
lacks this: its convolutions see the whole latent, and its attention hardly matters. Here it is taught, from the
shipped weights on, with training images only:

A row of the batch is a noised picture ("base") with the keys and values of another picture of the same caption
("reference"), noised as much, inside a random mask M. What it shall predict is the noise that leads to the reference
inside M and to the base outside:

    x_t = sqrt(abar) x_base + sqrt(1 - abar) eps      x_want = M x_reference + (1 - M) x_base
    eps_want = (x_t - sqrt(abar) x_want) / sqrt(1 - abar)

Which of two pictures is better is not in this; nothing here knows prompts, items or scores. Half of the rows of such a
batch, and half of the batches altogether, are noise prediction as before.

reads  weights, build/latents.npy   writes  build/transfer, a whole model: dvc exp run -S model.id=FOLDER
"""

from __future__ import annotations

import copy
import shutil
import threading
from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel

from ...attention.fusion import fuse_kv, resize
from ...attention.layers import layer_paths, present_layers, self_attention_modules
from ...attention.processor import HookedAttention, with_kv
from ..locate import WEIGHTS
from .data import BUILD
from .loop import fit, rows_at
from .record import record
from .unet import TrainingSet, build, following, min_snr_weight, save, scheduler, training_set, write_index

STEPS, HALF, LR = 1_500, 16, 1.0e-3  # HALF: references of a shard, and as many bases
SHARE = 0.5  # of batches with a transfer
EARLIEST = 150  # training timestep; below it a base shows too clearly what it is
MASK = 8  # cells a side
FULL = 0.34  # share of masks that cover everything
SEED = 10_000_000  # of batches; far from those of the shipped weights
OUT = BUILD / "transfer"


class Transfer:
    """Self-attention of a batch of references and bases: the second half takes K and V of the first inside M.

    M is set per thread, since shards of a batch run side by side; None leaves attention as it is.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.local = threading.local()
        layers = present_layers(unet, tuple(layer_paths(unet)))
        processors = {f"{path}.processor": HookedAttention(with_kv(self.hook))
                      for path in self_attention_modules(unet, layers).values()}
        unet.set_attn_processor({**unet.attn_processors, **processors})

    def hook(
        self, _Q: torch.Tensor, K: torch.Tensor, V: torch.Tensor, _bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        M = getattr(self.local, "M", None)
        if M is None:
            return K, V
        n, side = len(M), round(K.shape[2] ** 0.5)
        K_new, V_new = fuse_kv(K[:n], V[:n], K[n:], V[n:], resize(M, (side, side)))
        return torch.cat([K[:n], K_new]), torch.cat([V[:n], V_new])


def wanted_images(x_0: torch.Tensor, M: torch.Tensor) -> torch.Tensor:
    """Of references and bases (2 n, c, y, x): the references, then bases with their references inside M."""
    reference, base = x_0.chunk(2)
    inside = resize(M, (x_0.shape[-2], x_0.shape[-1]))[:, None]
    return torch.cat([reference, torch.where(inside, reference, base)])


def masks(n: int, generator: torch.Generator) -> torch.Tensor:
    """Random rectangles, bool (n, MASK, MASK); some cover everything."""
    first = torch.randint(0, MASK - 2, (n, 2), generator=generator)
    size = torch.randint(2, MASK + 1, (n, 2), generator=generator)
    cells = torch.arange(MASK)
    y, x = ((cells >= first[:, k, None]) & (cells < (first + size)[:, k, None]) for k in (0, 1))
    full = torch.rand(n, generator=generator) < FULL
    return (y[:, :, None] & x[:, None, :]) | full[:, None, None]


def wanted_noise(x_t: torch.Tensor, x_want: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    """The noise prediction whose denoised image is x_want; abar (n,)."""
    abar = abar.view(-1, 1, 1, 1)
    return (x_t - abar.sqrt() * x_want) / (1 - abar).sqrt()


def partners(data: TrainingSet) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
    """A function that gives each row another one, drawn from those of the same caption."""
    of_caption = [(data.caption == c).nonzero().flatten() for c in range(len(data.texts) - 1)]

    def draw(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        candidates = [of_caption[int(data.caption[row])] for row in rows]
        return torch.stack([some[torch.randint(len(some), (1,), generator=generator)[0]] for some in candidates])

    return draw


def main() -> None:
    """Train and save."""
    data, noise_schedule = training_set(), scheduler()
    abar, partner = noise_schedule.alphas_cumprod, partners(data)
    unet = build().to(memory_format=torch.channels_last)
    unet.load_state_dict(UNet2DConditionModel.from_pretrained(WEIGHTS / "unet").state_dict())
    average = copy.deepcopy(unet).requires_grad_(False)
    transfer = Transfer(unet)

    def loss_at(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(SEED + step)
        first = rows_at(step, HALF, len(data.latents), seed=SEED)
        transferred = bool(torch.rand(1, generator=generator) < SHARE)
        if transferred:
            rows, M = torch.cat([first, partner(first, generator)]), masks(HALF, generator)
            timestep = torch.randint(EARLIEST, 1000, (HALF,), generator=generator).repeat(2)
            text = data.drop_some(data.caption[first], generator).repeat(2)
        else:
            rows, M = torch.cat([first, rows_at(step, HALF, len(data.latents), seed=SEED + 1)]), None
            timestep = torch.randint(0, 1000, (2 * HALF,), generator=generator)
            text = data.drop_some(data.caption[rows], generator)
        x_0 = data.latents[rows]
        noise = torch.randn(x_0.shape, generator=generator)
        x_t = noise_schedule.add_noise(x_0, noise, timestep)
        transfer.local.M = M
        x_want = x_0 if M is None else wanted_images(x_0, M)
        eps = unet(x_t, timestep, data.texts[text]).sample
        error = (eps - wanted_noise(x_t, x_want, abar[timestep])).square().mean(dim=(1, 2, 3))
        return (error * min_snr_weight(abar[timestep])).mean()

    fit(unet.parameters(), loss_at, steps=STEPS, lr=LR, weight_decay=1e-2, after_step=following(average, unet),
        name="transfer")
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(WEIGHTS / part, OUT / part, dirs_exist_ok=True)
    save(average, OUT / "unet")
    write_index(OUT)
    record("transfer", OUT)


if __name__ == "__main__":
    main()
