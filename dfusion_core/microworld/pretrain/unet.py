"""Train the U-Net for the second time, and assemble the Stable-Diffusion-format folder.

The composition is that of params.yaml, captions are sometimes wrong (`captions.py`), and some batches have the
transfer objective (`transfer.py`).

reads   build/words, build/latents, build/data, weights/{text_encoder,tokenizer}
writes  weights/{unet,scheduler,model_index.json}
"""

from __future__ import annotations

from diffusers import UNet2DConditionModel

from .network import build, save, scheduler, train, write_index
from .record import record
from .settings import settings

LR, SEED = 1.0e-3, 10_000_000


def main() -> None:
    """Train and save."""
    chosen, unet = settings(), build()
    unet.load_state_dict(UNet2DConditionModel.from_pretrained(chosen.build_folder / "words").state_dict())
    average = train(
        unet,
        chosen.composition,
        chosen.wrong_captions,
        chosen.transfer_share,
        steps=chosen.unet_steps,
        lr=LR,
        seed=SEED,
        name="unet",
    )
    save(average, chosen.weights_folder / "unet")
    scheduler().save_pretrained(chosen.weights_folder / "scheduler")
    write_index(chosen.weights_folder)
    record("unet", chosen.weights_folder / "unet")


if __name__ == "__main__":
    main()
