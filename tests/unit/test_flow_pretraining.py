"""The transformer's batches and its objective: the transfer is Eq. (5)'s, the velocity leads where it says."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import JointAttnProcessor2_0

from dfusion_core.attention.control import fusing
from dfusion_core.attention.joint import HookedJointAttention
from dfusion_core.attention.layers import layer_paths
from dfusion_core.microworld.grammar import TEMPLATES
from dfusion_core.microworld.pretrain import flow, transfer
from dfusion_core.microworld.pretrain.captions import Captions
from dfusion_core.microworld.pretrain.flow_batches import HALF, LEAST, FlowBatches
from dfusion_core.microworld.pretrain.text import prompts

N, TRUE = 2, 20


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batches(transfer_share: float = 0.5) -> FlowBatches:
    texts = prompts()
    true, wrong = (Captions.of(texts, dict.fromkeys(TEMPLATES, p)) for p in (0.0, 1.0))
    return FlowBatches(torch.arange(len(texts)).repeat(4), true, wrong, TRUE, transfer_share, seed=7)


def test_a_batch_is_a_function_of_its_step() -> None:
    batch_at, texts = batches(), prompts()
    transferred = []
    for step in range(2 * TRUE):
        batch, again = batch_at(step), batch_at(step)
        assert all(torch.equal(batch[key], again[key]) for key in batch)
        caption, told = batch_at.caption[batch["rows"]], batch["text"]
        right = told[told < len(texts)] == caption[told < len(texts)]
        assert bool(right.all() if step < TRUE else not right.any())
        transferred.append(bool(batch["M"].any()))
        if transferred[-1]:
            assert torch.equal(caption[:HALF], caption[HALF:]) and torch.equal(batch["s"][:HALF], batch["s"][HALF:])
            assert torch.equal(told[:HALF], told[HALF:]) and float(batch["s"].min()) >= LEAST
    assert not any(transferred[:TRUE]) and 4 <= sum(transferred[TRUE:]) <= 16


@pytest.fixture(scope="module")
def objective() -> flow.Objective:
    torch.manual_seed(0)
    transformer = flow.build().eval()
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.05)  # an untrained one predicts zeros
    for block in transformer.transformer_blocks:
        torch.nn.init.normal_(block.norm1.linear.weight, std=0.1)
    return flow.Objective(transformer, torch.randn(len(prompts()) * 4, 4, 16, 16))


@torch.no_grad()
def forward(objective: flow.Objective) -> torch.Tensor:
    g = generator(1)
    x, states = torch.randn(2 * N, 4, 16, 16, generator=g), torch.randn(2 * N, 16, 96, generator=g)
    out: torch.Tensor = objective.transformer(x, states, states[:, 0], torch.full((2 * N,), 500.0)).sample
    return out


def test_the_rows_are_those_of_fusion(objective: flow.Objective) -> None:
    """References, then bases: as inside `fusing` in lock-step, and with an empty mask as without."""
    transformer, M = objective.transformer, transfer.masks(N, generator())
    objective.M = torch.zeros_like(M)
    plain = forward(objective)
    objective.M = M
    found = forward(objective)
    transformer.set_attn_processor(JointAttnProcessor2_0())
    with fusing(
        transformer,
        tuple(layer_paths(transformer)),
        M,
        reference_rows=torch.arange(N),
        target_rows=torch.arange(N, 2 * N),
    ):
        expected = forward(objective)
    transformer.set_attn_processor(HookedJointAttention(objective.attention))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(found[:N], plain[:N], atol=1e-5) and (found[N:] - plain[N:]).abs().max() > 1e-3


def test_the_loss_is_the_weighted_error_of_what_is_wanted(objective: flow.Objective) -> None:
    """Without a mask the usual velocity noise - x_0; with one, x_s - s v is the wanted image."""
    batch_at, seen = batches(), set()
    for step in range(TRUE, TRUE + 12):
        batch = batch_at(step)
        s, x_0 = batch["s"].view(-1, 1, 1, 1), objective.latents[batch["rows"]]
        x_s = (1 - s) * x_0 + s * batch["noise"]
        with torch.no_grad():
            loss = objective(batch)
            v = forward_of(objective, x_s, batch)
        masked = bool(batch["M"].any())
        want = batch["noise"] - x_0
        weight = torch.ones(2 * HALF)
        if masked:
            want = (x_s - transfer.wanted_images(x_0, batch["M"])) / s
            weight = torch.minimum(torch.ones(2 * HALF), 5 * batch["s"] ** 2)
        expected = ((v - want).square().mean(dim=(1, 2, 3)) * weight).mean()
        torch.testing.assert_close(loss, expected, rtol=2e-3, atol=1e-4)
        seen.add(masked)
    assert seen == {True, False}


def forward_of(objective: flow.Objective, x_s: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The prediction, in fp32, with the mask that the loss has left behind."""
    text = batch["text"]
    found: torch.Tensor = objective.transformer(
        x_s, objective.states[text], objective.pooled[text], 1000 * batch["s"]
    ).sample
    return found
