"""Counting on the meta device against hand-worked numbers, real tensors, and published figures of Stable Diffusion."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from dfusion_core.commands.plan.costs import count_costs, counted_on
from dfusion_core.commands.plan.counting import forward_flops, saved_bytes, training_flops, working_bytes
from dfusion_core.commands.plan.lookup import find_architecture
from dfusion_core.commands.plan.networks import (
    add_adapter,
    build_unet,
    build_vae,
    decode_call,
    parameters,
    text_parameters,
    unet_call,
)
from dfusion_core.commands.plan.rewards import KNOWN as REWARDS
from dfusion_core.commands.plan.rewards import count_reward, reward_costs
from dfusion_core.models.architectures import KNOWN
from dfusion_core.params import Lora, Model, load_everything

ROOT = Path(__file__).parents[2]
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


@pytest.mark.parametrize("checkpointing", [False, True])
def test_meta_device_agrees_with_real_tensors(checkpointing: bool) -> None:
    """The networks of the micro-world: FLOPs are equal, bytes but for what a kernel keeps beside its output."""
    params = load_everything(ROOT / "params.yaml")
    model = params.model.model_copy(update={"gradient_checkpointing": checkpointing})
    params = params.model_copy(update={"model": model})
    meta, real = (vars(count_costs(params, torch.float32, torch.device(where))) for where in ("meta", "cpu"))
    for name, value in meta.items():
        if name in ("row_working", "decode_working", "trained_row_saved"):
            assert real[name] == pytest.approx(value, rel=0.001), name
        else:
            assert real[name] == value, name


def test_flops_are_those_of_a_row_times_the_rows() -> None:
    """What the probe of this machine takes for granted."""
    unet = build_unet(find_architecture(Model()), torch.float32)
    assert forward_flops(unet_call(unet, 3, 16)) == 3 * forward_flops(unet_call(unet, 1, 16))
    add_adapter(unet, Lora(rank=2, targets=("to_v",)))
    assert training_flops(unet_call(unet, 3, 16)) == 3 * training_flops(unet_call(unet, 1, 16))


def test_only_small_networks_are_counted_on_the_cpu() -> None:
    small, large = (build_unet(one, torch.float32) for one in (find_architecture(Model()), KNOWN["sd15"]))
    cpu, meta = torch.device("cpu"), torch.device("meta")
    assert counted_on(small, torch.float32, cpu) == cpu
    for network, dtype, device in (
        (large, torch.float32, cpu),
        (small, torch.float16, cpu),
        (small, torch.float32, torch.device("cuda")),
    ):
        assert counted_on(network, dtype, device) == meta


@pytest.mark.parametrize("name", REWARDS)
def test_known_rewards_cost_what_is_counted(name: str) -> None:
    assert count_reward(name) == REWARDS[name] == reward_costs(name)


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
    clip = count_reward("ViT-H-14")
    assert (clip.parameters, clip.features) == (986_109_441, 1024) and round(clip.flops / 1e9, 3) == 334.590


@pytest.mark.slow
def test_sd15_and_sdxl_have_their_published_sizes() -> None:
    sd15, sdxl = KNOWN["sd15"], KNOWN["sdxl"]
    unet = build_unet(sd15, torch.float16)
    assert parameters(unet) == 859_520_964 and round(forward_flops(unet_call(unet, 1, 77)) / 1e9, 3) == 803.273
    unet = build_unet(sdxl, torch.float16)
    assert parameters(unet) == 2_567_463_684 and build_vae(sdxl, torch.float16).dtype == torch.float32
    assert unet_call(unet, 2, 77)().shape == (2, 4, 128, 128)
