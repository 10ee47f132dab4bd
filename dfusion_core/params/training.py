"""The section train of params.yaml."""

from typing import Literal

from .fields import LARGE, MANY, Section, ours, paper


class Train(Section):
    """The update of the adapter (Table 3, Optimizer and Training; Eq. 6)."""

    optimizer: Literal["adamw", "adamw_8bit"] = paper(
        "adamw", "AdamW, or the AdamW of bitsandbytes with moments of 8 bits (docs/planning.md)"
    )
    learning_rate: float = paper(1e-4, "learning rate of AdamW", gt=0, le=1)
    weight_decay: float = paper(1e-4, "weight decay of AdamW", ge=0, le=1000)
    betas: tuple[float, float] = paper((0.9, 0.999), "(beta_1, beta_2) of AdamW")
    epsilon: float = paper(1e-8, "epsilon of AdamW", gt=0, le=1)
    clip_norm: float = paper(1.0, "the gradient is clipped to this norm", gt=0, le=LARGE)
    inner_epochs: int = paper(2, "E, passes over the pairs of a round", ge=1, le=10_000)
    pairs_per_update: int = paper(320, "pairs, each with all its timesteps, per optimizer step", ge=1, le=MANY)
    first_t: int | None = paper(None, "first trained timestep t; null: T (docs/method.md)", ge=1)
    last_t: int = paper(
        1, "last trained timestep t; the steps of least noise dominate the gradient (docs/method.md)", ge=1
    )
    timestep_weight: Literal["none", "equal"] = paper(
        "none",
        "none: Eq. 6, 8, 9 as printed; equal: terms are weighted so that the gradient with respect to the predicted "
        "noise has the same size at every timestep",
    )
    micro_batch: int = ours(
        8, "rows of (pair, timestep) in one forward pass; changes results by rounding only", ge=1, le=MANY
    )
    dpo_form: Literal["ratio", "log_ratio"] = paper(
        "ratio", "Eq. 6 as printed, or with the logarithm of Diffusion-DPO and D3PO"
    )
    dpo_beta: float = ours(
        0.1,
        "beta of Eq. 6; the paper gives none, 0.1 is D3PO's; has almost no effect under AdamW (docs/method.md)",
        gt=0,
        le=LARGE,
    )
    ratio_clip: float = ours(
        1e-4, "ddpo, dpok: ratios are clipped to 1 +- this; the paper gives none, 1e-4 is DDPO's", gt=0, lt=1
    )
    advantage_clip: float = ours(5.0, "ddpo, dpok: largest absolute value of a normalised reward", gt=0, le=LARGE)
    dpok_alpha: float = paper(0.99, "dpok: weight of the policy gradient in Eq. 9", gt=0, le=LARGE)
    dpok_beta: float = paper(0.01, "dpok: weight of the KL divergence from the policy before the round", ge=0, le=LARGE)
