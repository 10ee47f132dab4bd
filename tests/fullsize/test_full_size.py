"""The U-Nets of SD 1.5 and SD 2.1 at full size with random weights, and SDXL's topology at reduced width: a guided
forward, captured maps, a fused forward and a step of training do what the naive reference does.

Latents are 64 x 64, the model's own size, for forward, maps and fusion of SD 2.1; 32 x 32 elsewhere, for time's sake.
The two full sizes take five minutes of one core and 9 GB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import naive_reference as naive
import pytest
import torch
from naive_pair import BETA, NaivePair
from random_models import RandomTexts, filled, normal, random_policy
from torch import Tensor

from dfusion_core.attention.control import capturing, fusing
from dfusion_core.fusion.targets import References, fused_prediction
from dfusion_core.models.lora import add_lora
from dfusion_core.models.policy import Policy, load_policy
from dfusion_core.models.text import Text
from dfusion_core.params.sections import Lora, Model, Sample, Train
from dfusion_core.testing import tiny_sdxl
from dfusion_core.training.trainer import Trainer

T, STEP, TRAINED_SIDE = 20, 9, 32  # of the paper, and a step index in the middle: t = 11
CHECKED = "mid_block.attentions.0.transformer_blocks.0.attn1.to_v.lora_B.default.weight"
PROMPT = "a heart holding a balloon"
# One row or four in a batch, a fused kernel or the explicit softmax: sums in another order. Each rounds by 6e-8 of its
# result; the U-Net's few hundred layers and guidance (5 times one half less 4 times the other) make 5e-5 of it here.
ROUNDING = 5e-4


@dataclass(frozen=True)
class Case:
    """A model, the names of its layers here and in diffusers, and latents (1, 4, side, side)."""

    policy: Policy
    maps: tuple[str, str]
    layers: dict[str, str]
    side: int

    @property
    def text(self) -> Text:
        """The prompt."""
        return self.policy.embed([PROMPT])

    @property
    def texts(self) -> tuple[Text, Text]:
        """The empty prompt and the prompt."""
        return self.policy.negative, self.text

    def latent(self, seed: int) -> Tensor:
        return normal(seed, 1, 4, self.side, self.side)


@dataclass(frozen=True)
class Half:
    """What the naive reference says of one half of a guidance batch."""

    noise: Tensor
    self_attention: dict[str, dict[str, Tensor]]
    map: Tensor


@pytest.fixture(
    scope="module",
    params=[pytest.param("sd15", marks=pytest.mark.slow), pytest.param("sd21", marks=pytest.mark.slow), "narrow sdxl"],
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    if request.param == "narrow sdxl":
        folder = tiny_sdxl(tmp_path_factory.mktemp("model"))
        policy = load_policy(Model(id=str(folder), device="cpu"), Sample(), None)
        filled(policy.unet).double()  # 52 narrow transformer blocks magnify the rounding of fp32
        policy.encode = RandomTexts(policy.unet.config.cross_attention_dim, pooled=policy.embed([""]).pooled.shape[1])
        layers = {"mid": "mid_block", "up_0": "up_blocks.0", "up_1": "up_blocks.1"}
        return Case(policy, ("up_0", "up_blocks.0"), layers, 32)
    layers = {"mid": "mid_block"} | {f"up_{k}": f"up_blocks.{k}" for k in (1, 2, 3)}
    return Case(random_policy(request.param), ("up_1", "up_blocks.1"), layers, 64 if request.param == "sd21" else 32)


@pytest.fixture(scope="module")
def reference(case: Case) -> list[Half]:
    """The naive forward of the reference's latent, without and with the prompt."""
    unet = case.policy.unet
    cross, own = naive.modules(unet, "attn2", [case.maps[1]]), naive.modules(unet, "attn1", list(case.layers.values()))
    halves = []
    for text in case.texts:
        with (
            torch.no_grad(),
            naive.watched(cross, ["to_q", "to_k"]) as seen,
            naive.watched(own, ["to_k", "to_v"]) as self_attention,
        ):
            noise = naive.one_row(case.policy, case.latent(1), STEP, text)
        halves.append(Half(noise, self_attention, naive.attention_map(seen)))
    return halves


def mask_of(reference: list[Half]) -> Tensor:
    """Where the reference's map of one token is above its mean: (y, x)."""
    one = reference[1].map[..., 3]
    mask = one >= one.mean()
    assert 0.1 < mask.float().mean() < 0.9
    return mask


@pytest.mark.few(1)
@torch.no_grad()
def test_guided_forward_and_captured_maps(case: Case, reference: list[Half]) -> None:
    """Eq. (4): reading the maps changes no bit; the map is the mean over heads and modules of the explicit softmax."""
    text = case.text
    plain = case.policy.predict_noise(case.latent(1), STEP, text)
    torch.testing.assert_close(
        plain, naive.guided(case.policy, *(half.noise for half in reference)), rtol=0, atol=ROUNDING
    )
    with capturing(case.policy.unet, case.maps[0]) as tap:
        assert torch.equal(case.policy.predict_noise(case.latent(1), STEP, text), plain)
    maps = tap.maps()
    assert maps.shape == (2, case.side // 4, case.side // 4, text.states.shape[1])
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:3]), rtol=0, atol=1e-5)
    for found, half in zip(maps, reference, strict=True):
        torch.testing.assert_close(found, half.map.float(), rtol=0, atol=1e-5)
    assert maps[1].max() > 2 * maps[1].mean()  # the maps have a shape


@torch.no_grad()
def test_fused_forward(case: Case, reference: list[Half]) -> None:
    """Eq. (5) in lock-step: one batch of four rows does what the reference first and then the target do."""
    text = case.text
    mask, own = mask_of(reference), naive.modules(case.policy.unet, "attn1", list(case.layers.values()))
    halves = []
    for words, half in zip(case.texts, reference, strict=True):
        with naive.fused(own, half.self_attention, mask):
            halves.append(naive.one_row(case.policy, case.latent(2), STEP, words))
    stored = References(x=case.latent(1)[:, None].expand(-1, T + 1, -1, -1, -1), mask=mask.expand(1, T, -1, -1))
    with fused_prediction(case.policy, text, stored, STEP, list(case.layers), fusing) as predict:
        found = predict(case.latent(2), STEP)
    torch.testing.assert_close(found, naive.guided(case.policy, *halves), rtol=0, atol=ROUNDING)
    unfused = naive.one_row(case.policy, case.latent(2), STEP, text)
    assert (halves[1] - unfused).abs().max() > 100 * ROUNDING


@pytest.mark.slow
def test_training_step(case: Case) -> None:
    """Eq. (6) through a LoRA of rank 4: the first loss is log 2, the step is AdamW's first, -lr g / (|g| + epsilon),
    and g is what finite differences of the naive loss give."""
    pair = NaivePair(case.policy, STEP, TRAINED_SIDE, case.texts)
    add_lora(case.policy.unet, Lora(rank=4), seed=0)
    train = Train(clip_norm=10.0, micro_batch=1, inner_epochs=1, last_t=T - STEP, dpo_beta=BETA)
    trainer = Trainer(case.policy, pair.pairs(PROMPT), train, seed=0, round="r00")
    before = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    gradient: dict[str, Tensor] = {}
    trainer.optimizer.register_step_pre_hook(
        lambda *_: gradient.update({name: p.grad.clone() for name, p in trainer.parameters.items()})
    )
    trainer.update()

    figures = trainer.diagnostics.updates[0]
    assert figures["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert figures["gradient_norm"] < train.clip_norm  # so what is compared is the whole gradient
    for name, parameter in trainer.parameters.items():
        g = gradient[name]
        assert bool(g.any()) == ("lora_B" in name)  # B is zero, so A has no gradient yet
        torch.testing.assert_close(
            parameter, before[name] - train.learning_rate * g / (g.abs() + train.epsilon), rtol=1e-4, atol=1e-9
        )
        parameter.data.copy_(before[name])
    B, g = trainer.parameters[CHECKED], gradient[CHECKED]
    for direction, h in ((one_hot(g, g.abs().argmax()), 5e-3), (g.sign(), 1e-4)):
        assert slope(pair, B, direction, h) == pytest.approx(float((g * direction).sum()), rel=2e-2)


def one_hot(like: Tensor, where: Tensor) -> Tensor:
    """A single entry."""
    return torch.zeros_like(like).flatten().index_fill(0, where, 1).view_as(like)


@torch.no_grad()
def slope(pair: NaivePair, B: Tensor, direction: Tensor, h: float) -> float:
    """Central difference of the naive loss at B = 0."""
    B.copy_(h * direction)
    above = pair.loss()
    B.copy_(-h * direction)
    below = pair.loss()
    B.zero_()
    return (above - below) / (2 * h)
