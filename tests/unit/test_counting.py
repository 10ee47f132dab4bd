"""Counting on the meta device against hand-worked numbers, real tensors, and published figures of Stable Diffusion."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from dfusion_core.commands.plan.counting import forward_flops, saved_bytes, training_flops, working_bytes
from dfusion_core.commands.plan.networks import (
    build_reward,
    build_unet,
    build_vae,
    decode_call,
    parameters,
    reward_call,
    text_parameters,
    unet_call,
)
from dfusion_core.models.architectures import KNOWN
from dfusion_core.params import Lora

MIB, FP32 = 2**20, 4
ROWS, WIDE, NARROW, RANK = 5, 8, 3, 2


class AdaptedLinear(nn.Module):
    """A frozen layer with a low-rank update, as peft writes one."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(WIDE, NARROW, bias=False).requires_grad_(False)
        self.A, self.B = nn.Linear(WIDE, RANK, bias=False), nn.Linear(RANK, NARROW, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + self.B(self.A(x))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_linear_layer_by_hand(device: str) -> None:
    with torch.device(device):
        layer, x = nn.Linear(WIDE, NARROW, bias=False), torch.zeros(ROWS, WIDE)
    assert saved_bytes(lambda: layer(x), layer.parameters()) == ROWS * WIDE * FP32  # dL/dW needs x, and nothing else
    assert forward_flops(lambda: layer(x)) == 2 * ROWS * WIDE * NARROW
    assert training_flops(lambda: layer(x)) == 2 * 2 * ROWS * WIDE * NARROW  # and dL/dW; no dL/dx is asked for


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_frozen_layer_with_adapter_by_hand(device: str) -> None:
    with torch.device(device):
        layer, x = AdaptedLinear(), torch.zeros(ROWS, WIDE)
    # dL/dA needs x, dL/dB needs A x; the frozen weight is a parameter, and needed by nobody, because x has no gradient
    assert saved_bytes(lambda: layer(x), layer.parameters()) == ROWS * (WIDE + RANK) * FP32


def test_a_storage_counts_once() -> None:
    x = torch.zeros(ROWS, WIDE, requires_grad=True)

    def forward() -> Tensor:
        y = x.exp()  # keeps y
        return (y * y.view(WIDE, ROWS).T).sin()  # the product keeps y and a view of y; sin keeps the product

    assert saved_bytes(forward, [x]) == 2 * ROWS * WIDE * FP32


def test_bytes_alive_at_once() -> None:
    x = torch.zeros(ROWS, WIDE, device="meta")

    def forward() -> Tensor:
        y = x + 1
        z = y * 2  # x is known; y and z are alive
        del y
        return z - 3  # z and the result

    assert working_bytes(forward, [nn.Parameter(x)]) == 2 * ROWS * WIDE * FP32


def test_attention_keeps_no_scores() -> None:
    tokens, width = 1024, 4
    with torch.device("meta"):
        Q, K, V = (torch.zeros(1, 1, tokens, width, requires_grad=True) for _ in range(3))
    # Q, K, V, the output and a log-sum a query; the scores would be tokens x tokens
    kept = saved_bytes(lambda: scaled_dot_product_attention(Q, K, V), [])
    assert 4 * tokens * width * FP32 <= kept < 5 * tokens * width * FP32 + tokens * FP32


def test_meta_device_agrees_with_real_tensors() -> None:
    """The U-Net of the micro-world, on both."""
    from dfusion_core.commands.plan.lookup import find_architecture
    from dfusion_core.commands.plan.networks import materialise
    from dfusion_core.params import Model

    architecture, found = find_architecture(Model()), []
    for device in ("meta", "cpu"):
        unet = build_unet(architecture, torch.float32, Lora())
        if device == "cpu":
            materialise(unet, torch.device("cpu"))
        found.append(saved_bytes(unet_call(unet, 2, 16, torch.device(device)), unet.parameters()))
    assert found[0] == pytest.approx(found[1], rel=0.01)


# --- Stable Diffusion at full size: GFLOP of multiplications and additions, counted independently of this program ---


@pytest.mark.slow
def test_sd21_costs_what_is_published() -> None:
    unet, adapted = (build_unet(KNOWN["sd21"], torch.float16, lora) for lora in (None, Lora()))
    assert parameters(unet) == 865_910_724 and parameters(adapted) - parameters(unet) == 829_952
    assert round(forward_flops(unet_call(unet, 1, 77)) / 1e9, 3) == 804.257
    trained = unet_call(adapted, 1, 77)
    assert round(training_flops(trained) / 1e9, 3) == 1778.434
    assert round(saved_bytes(trained, adapted.parameters()) / MIB) == 721
    both = saved_bytes(unet_call(adapted, 2, 77), adapted.parameters())
    assert both / 2 / MIB == pytest.approx(721, abs=1)  # so it is the rows that cost


def test_other_parts_cost_what_is_published() -> None:
    sd21 = KNOWN["sd21"]
    vae = build_vae(sd21, torch.float16)
    assert round(forward_flops(decode_call(vae, (64, 64))) / 1e9, 3) == 2514.519
    assert text_parameters(sd21) == 340_387_840
    clip, size, features = build_reward("ViT-H-14")
    assert (parameters(clip), size, features) == (986_109_441, 224, 1024)
    assert round(forward_flops(reward_call(clip, size)) / 1e9, 3) == 334.590


@pytest.mark.slow
def test_sd15_and_sdxl_have_their_published_sizes() -> None:
    sd15, sdxl = KNOWN["sd15"], KNOWN["sdxl"]
    unet = build_unet(sd15, torch.float16)
    assert parameters(unet) == 859_520_964 and round(forward_flops(unet_call(unet, 1, 77)) / 1e9, 3) == 803.273
    unet = build_unet(sdxl, torch.float16)
    assert parameters(unet) == 2_567_463_684 and build_vae(sdxl, torch.float16).dtype == torch.float32
    assert unet_call(unet, 2, 77)().shape == (2, 4, 128, 128)
