"""Attention control on an unmodified U-Net: identities that hold exactly, and a naive implementation.

Two tiny random U-Nets: of Stable Diffusion's four levels, and of three (with linear projections).
Rows of a batch: two references, then two targets.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor

from dfusion_core.attention.control import capturing, fusing, recording_kv
from dfusion_core.attention.layers import (
    LayerError,
    cross_attention_modules,
    first_cross_up_block,
    layer_paths,
    present_layers,
    self_attention_modules,
)

PAPER = ("mid", "up_1", "up_2", "up_3")
ROWS, TOKENS, WIDTH = 4, 5, 8
LATENT = (16, 24)  # not square: a mix-up of y and x cannot hide


@cache
def unet(levels: int = 4) -> UNet2DConditionModel:
    torch.manual_seed(levels)
    cross = levels - 1
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16, 16, 16)[:levels],
        layers_per_block=2 if levels == 4 else 1,
        down_block_types=("CrossAttnDownBlock2D",) * cross + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * cross,
        cross_attention_dim=WIDTH,
        attention_head_dim=(2, 4, 4, 4)[:levels],
        norm_num_groups=4,
        use_linear_projection=levels == 3,
    ).eval()


def inputs(seed: int = 0, latent: tuple[int, int] = LATENT) -> tuple[Tensor, int, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, 4, *latent, generator=g), 500, torch.randn(ROWS, TOKENS, WIDTH, generator=g)


@torch.no_grad()
def run(model: UNet2DConditionModel, x: tuple[Tensor, int, Tensor], **options: Any) -> Tensor:
    out: Tensor = model(*x, **options).sample
    return out


def first_rows(x: tuple[Tensor, int, Tensor], rows: slice) -> tuple[Tensor, int, Tensor]:
    return x[0][rows], x[1], x[2][rows]


def random_mask(rows: int, seed: int = 3) -> Tensor:
    return torch.rand(rows, 4, 6, generator=torch.Generator().manual_seed(seed)) > 0.5


def is_stock(model: UNet2DConditionModel) -> bool:
    hooks = model._forward_pre_hooks
    return not hooks and all(type(p) is AttnProcessor2_0 for p in model.attn_processors.values())


# --- names ----------------------------------------


def test_layers_of_stable_diffusion() -> None:
    assert list(layer_paths(unet())) == [
        *("down_0", "down_1", "down_2", "down_3", "mid", "up_0", "up_1", "up_2", "up_3")
    ]
    assert present_layers(unet(), PAPER) == PAPER
    modules = self_attention_modules(unet(), PAPER)
    assert list(modules) == ["mid.0", *(f"up_{k}.{n}" for k in (1, 2, 3) for n in (0, 1, 2))]
    assert modules["up_1.2"] == "up_blocks.1.attentions.2.transformer_blocks.0.attn1"
    assert first_cross_up_block(unet()) == "up_1"


def test_cross_attention_of_paper_and_authors() -> None:
    """Paper: the three of up_1. Authors' code: every map of that resolution, so two of down_2 as well."""
    assert [p.split(".attentions")[0] for p in cross_attention_modules(unet(), "up_1")] == ["up_blocks.1"] * 3
    blocks = [p.split(".attentions")[0] for p in cross_attention_modules(unet(), "same_resolution")]
    assert blocks == ["down_blocks.2"] * 2 + ["up_blocks.1"] * 3


def test_three_levels_have_what_they_have() -> None:
    assert present_layers(unet(3), PAPER) == ("mid", "up_1", "up_2")
    assert len(cross_attention_modules(unet(3), "same_resolution")) == 1 + 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: self_attention_modules(unet(), ["up_4"]), "no layer 'up_4'. Did you mean 'up_"),
        (
            lambda: self_attention_modules(unet(), ["up_0"]),
            "'up_0' of this U-Net has no attention. Layers with",
        ),
        (lambda: present_layers(unet(), ["up1"]), "no layer 'up1'"),
        (lambda: present_layers(unet(3), ["up_3"]), "none of the layers up_3"),
        (lambda: cross_attention_modules(unet(), "middle"), "no layer 'middle'"),
    ],
)
def test_unknown_layers(call: Callable[[], object], message: str) -> None:
    with pytest.raises(LayerError) as caught:
        call()
    assert message in str(caught.value)


# --- identities ----------------------------------------


@pytest.mark.parametrize("levels", [4, 3])
def test_reading_leaves_the_output_bit_identical(levels: int) -> None:
    plain = run(unet(levels), inputs())
    with capturing(unet(levels), "same_resolution"), recording_kv(unet(levels), ["down_0", "mid", "up_1"]):
        assert torch.equal(run(unet(levels), inputs()), plain)
    assert is_stock(unet(levels)) and torch.equal(run(unet(levels), inputs()), plain)


def test_reading_leaves_a_masked_output_bit_identical() -> None:
    """A text-attention mask: padded tokens get probability zero in the map as they do in the product."""
    mask = torch.tensor([[1, 1, 1, 0, 0]]).expand(ROWS, -1)
    plain = run(unet(), inputs(), encoder_attention_mask=mask)
    with capturing(unet()) as tap:
        assert torch.equal(run(unet(), inputs(), encoder_attention_mask=mask), plain)
    assert float(tap.maps()[..., 3:].max()) < 1e-6 < float(tap.maps()[..., :3].min())


def test_gradients_are_bit_identical() -> None:
    def gradient() -> Tensor:
        x = inputs()
        x[0].requires_grad_()
        unet()(*x).sample.square().sum().backward()
        unet().zero_grad()
        assert x[0].grad is not None
        return x[0].grad

    plain = gradient()
    with capturing(unet()), recording_kv(unet(), ["up_2"]):
        assert torch.equal(gradient(), plain)


@pytest.mark.parametrize("levels", [4, 3])
def test_own_keys_and_values_with_a_full_mask_change_nothing(levels: int) -> None:
    layers = present_layers(unet(levels), PAPER)
    with recording_kv(unet(levels), layers) as tap:
        plain = run(unet(levels), inputs())
    with fusing(unet(levels), layers, torch.ones(ROWS, 4, 6, dtype=torch.bool), stored=tap.kv):
        assert torch.equal(run(unet(levels), inputs()), plain)


def test_an_empty_mask_changes_nothing_for_any_reference() -> None:
    plain, M = run(unet(), inputs()), torch.zeros(ROWS, 4, 6, dtype=torch.bool)
    with recording_kv(unet(), PAPER) as tap:
        run(unet(), inputs(seed=1))
    nan = {name: (K * torch.nan, V * torch.nan) for name, (K, V) in tap.kv.items()}
    for stored in (tap.kv, nan):
        with fusing(unet(), PAPER, M, stored=stored):
            assert torch.equal(run(unet(), inputs()), plain)
    with fusing(unet(), PAPER, M[:2], reference_rows=torch.tensor([0, 1]), target_rows=torch.tensor([2, 3])):
        assert torch.equal(run(unet(), inputs()), plain)


def test_an_unused_nan_does_not_leak() -> None:
    M = random_mask(ROWS)
    with recording_kv(unet(), ["up_1"]) as tap:
        run(unet(), inputs(seed=1))
    unused = ~M.flatten(1)[:, None, :, None]  # 16x24 latents are 4x6 at up_1, the size of M
    holes = {n: (K.masked_fill(unused, torch.nan), V.masked_fill(unused, torch.inf)) for n, (K, V) in tap.kv.items()}
    with fusing(unet(), ["up_1"], M, stored=tap.kv):
        expected = run(unet(), inputs())
    with fusing(unet(), ["up_1"], M, stored=holes):
        assert torch.equal(run(unet(), inputs()), expected)
    assert torch.isfinite(expected).all() and not torch.equal(expected, run(unet(), inputs()))


# --- fusion ----------------------------------------


@pytest.mark.parametrize("levels", [4, 3])
def test_lock_step_equals_stored(levels: int) -> None:
    """Rows 0, 1 are references, 3, 2 their targets (crossed on purpose); references come out untouched."""
    x, M, layers = inputs(), random_mask(2), present_layers(unet(levels), PAPER)
    target_rows = torch.tensor([3, 2])
    with recording_kv(unet(levels), layers) as tap:
        plain = run(unet(levels), x)
    stored = {name: (K[:2], V[:2]) for name, (K, V) in tap.kv.items()}
    with fusing(unet(levels), layers, M, stored=stored, target_rows=target_rows):
        from_store = run(unet(levels), x)
    with fusing(unet(levels), layers, M, reference_rows=torch.tensor([0, 1]), target_rows=target_rows):
        in_step = run(unet(levels), x)
    assert torch.equal(in_step[:2], plain[:2])
    assert torch.equal(in_step, from_store)
    assert ((in_step - plain)[2:].abs().amax((1, 2, 3)) > 1e-4).all()


def test_without_target_rows_all_rows_are_fused() -> None:
    x, M = inputs(), random_mask(2)
    with recording_kv(unet(), PAPER) as tap:
        run(unet(), first_rows(x, slice(0, 2)))
    with fusing(unet(), PAPER, M, stored=tap.kv):
        alone = run(unet(), first_rows(x, slice(2, 4)))
    with fusing(unet(), PAPER, M, reference_rows=torch.tensor([0, 1]), target_rows=torch.tensor([2, 3])):
        torch.testing.assert_close(run(unet(), x)[2:], alone, rtol=0, atol=1e-5)


class Naive:
    """Eq. (2) and (5), pixel by pixel: explicit softmax, the printed sum, the mask by integer division."""

    def __init__(self, given: tuple[Tensor, Tensor] | None, M: Tensor, latent: tuple[int, int]) -> None:
        self.given, self.M, self.latent, self.seen = given, M, latent, (torch.empty(0), torch.empty(0))

    def mask(self, tokens: int) -> Tensor:
        """Nearest neighbour: pixel (y, x) of the layer reads M at (y * M's rows // the layer's rows, ...)."""
        scale = round((self.latent[0] * self.latent[1] / tokens) ** 0.5)
        h, w = self.latent[0] // scale, self.latent[1] // scale
        _, my, mx = self.M.shape
        rows = [[self.M[:, y * my // h, x * mx // w] for x in range(w)] for y in range(h)]
        return torch.stack([torch.stack(row, 1) for row in rows], 1).flatten(1)[..., None].float()

    def __call__(self, attn: Attention, x: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any) -> Tensor:
        assert encoder_hidden_states is None
        Q, K, V = attn.to_q(x), attn.to_k(x), attn.to_v(x)
        self.seen = (K, V)
        if self.given is not None:
            m = self.mask(x.shape[1])
            K, V = self.given[0] * m + K * (1 - m), self.given[1] * m + V * (1 - m)
        d = Q.shape[-1] // attn.heads
        parts = [slice(n * d, (n + 1) * d) for n in range(attn.heads)]
        A = [torch.softmax(Q[..., p] @ K[..., p].transpose(1, 2) / d**0.5, -1) for p in parts]
        out: Tensor = attn.to_out[0](torch.cat([a @ V[..., p] for a, p in zip(A, parts, strict=True)], -1))
        return out


@pytest.mark.parametrize("levels", [4, 3])
def test_a_naive_implementation_agrees(levels: int) -> None:
    model, M, layers = unet(levels), random_mask(ROWS), present_layers(unet(levels), PAPER)
    paths = self_attention_modules(model, layers).values()

    def naive_run(x: tuple[Tensor, int, Tensor], given: dict[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, Any]:
        spies = {path: Naive(given.get(path), M, LATENT) for path in paths}
        stock = model.attn_processors
        try:
            model.set_attn_processor({**stock, **{f"{path}.processor": spy for path, spy in spies.items()}})
            return run(model, x), {path: spy.seen for path, spy in spies.items()}
        finally:
            model.set_attn_processor(stock)

    _, reference = naive_run(inputs(seed=1), {})
    expected, _ = naive_run(inputs(), reference)
    with recording_kv(model, layers) as tap:
        run(model, inputs(seed=1))
    with fusing(model, layers, M, stored=tap.kv):
        torch.testing.assert_close(run(model, inputs()), expected, rtol=0, atol=1e-5)


def test_fusion_is_differentiable() -> None:
    """Gradients reach the target's latent, and in lock-step the reference's too, through the keys it lent."""
    x = inputs()
    x[0].requires_grad_()
    with fusing(unet(), PAPER, random_mask(2), reference_rows=torch.tensor([0, 1]), target_rows=torch.tensor([2, 3])):
        unet()(*x).sample[2].sum().backward()
    unet().zero_grad()
    assert x[0].grad is not None
    assert (x[0].grad.abs().amax((1, 2, 3)) > 0).tolist() == [True, False, True, False]


def test_half_precision_takes_a_reference_stored_in_fp32() -> None:
    model = unet(3).to(torch.bfloat16)
    try:
        x = (inputs()[0].bfloat16(), 500, inputs()[2].bfloat16())
        with recording_kv(model, ["up_1"]) as tap:
            plain = run(model, x)
        stored = {name: (K.float(), V.float()) for name, (K, V) in tap.kv.items()}
        with fusing(model, ["up_1"], torch.ones(ROWS, 4, 6, dtype=torch.bool), stored=stored):
            assert torch.equal(run(model, x), plain)
        with capturing(model) as maps:
            run(model, x)
        assert maps.maps().dtype == torch.float32
    finally:
        model.to(torch.float32)


# --- maps ----------------------------------------


def test_maps_are_the_mean_of_softmax_over_heads_and_modules() -> None:
    seen: list[Tensor] = []

    class Spy(AttnProcessor2_0):  # type: ignore[misc]
        def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            Q, K = (
                attn.to_q(hidden_states),
                attn.to_k(kwargs.get("encoder_hidden_states", args[0] if args else None)),
            )
            seen.append(attn.get_attention_scores(attn.head_to_batch_dim(Q), attn.head_to_batch_dim(K)))
            return super().__call__(attn, hidden_states, *args, **kwargs)

    stock = unet().attn_processors
    spied = {f"{path}.processor": Spy() for path in cross_attention_modules(unet(), "same_resolution")}
    try:
        unet().set_attn_processor({**stock, **spied})
        run(unet(), inputs())
    finally:
        unet().set_attn_processor(stock)
    expected = torch.stack([A.view(ROWS, -1, 4 * 6, TOKENS).mean(1) for A in seen]).mean(0).view(ROWS, 4, 6, TOKENS)
    with capturing(unet(), "same_resolution") as tap:
        run(unet(), inputs())
    torch.testing.assert_close(tap.maps(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(tap.maps().sum(-1), torch.ones(ROWS, 4, 6))
    assert torch.equal(tap.maps(slice(2, None)), tap.maps()[2:])
    assert torch.equal(tap.maps(torch.tensor([3, 0])), tap.maps()[[3, 0]])


def test_a_tap_holds_the_latest_forward_only() -> None:
    with capturing(unet()) as tap, recording_kv(unet(), ["mid"]) as kv:
        with pytest.raises(RuntimeError, match="no cross-attention was captured"):
            tap.maps()
        run(unet(), inputs(seed=1))
        run(unet(), inputs(seed=2))
        both = tap.maps(), kv.kv["mid.0"][0]
        run(unet(), inputs(seed=2))
        assert torch.equal(tap.maps(), both[0]) and torch.equal(kv.kv["mid.0"][0], both[1])
        tap.clear()
        with pytest.raises(RuntimeError):
            tap.maps()


def test_sizes_that_do_not_halve_evenly() -> None:
    """A 12x20 latent: 6x10, 3x5 at up_1, and 2x3 at the bottom, by rounding up."""
    with capturing(unet()) as tap, recording_kv(unet(), PAPER) as kv:
        run(unet(), inputs(latent=(12, 20)))
    assert tap.maps().shape == (ROWS, 3, 5, TOKENS)
    with fusing(unet(), PAPER, torch.ones(ROWS, 3, 5, dtype=torch.bool), stored=kv.kv):
        run(unet(), inputs(latent=(12, 20)))
    assert kv.kv["mid.0"][0].shape[2] == 2 * 3


# --- order restored, mistakes told ----------------------------------------


@pytest.mark.parametrize(
    "manager",
    [
        lambda: capturing(unet()),
        lambda: recording_kv(unet(), PAPER),
        lambda: fusing(
            unet(),
            PAPER,
            random_mask(2),
            reference_rows=torch.tensor([0, 1]),
            target_rows=torch.tensor([2, 3]),
        ),
    ],
)
def test_restored_after_an_exception(manager: Callable[[], Any]) -> None:
    before = unet().attn_processors
    with pytest.raises(KeyboardInterrupt), manager():
        assert not is_stock(unet())
        raise KeyboardInterrupt
    assert is_stock(unet())
    assert all(processor is before[name] for name, processor in unet().attn_processors.items())


def test_other_processors_are_not_replaced_silently() -> None:
    stock = unet().attn_processors
    try:
        unet().set_attn_processor(AttnProcessor())
        with pytest.raises(ValueError, match="AttnProcessor2_0 only"), capturing(unet()):
            pass
    finally:
        unet().set_attn_processor(stock)
    with capturing(unet()), pytest.raises(ValueError, match="ask for a module once"), capturing(unet()):
        pass
    assert is_stock(unet())


ROW = torch.tensor


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either `stored`"),
        ({"stored": {}, "reference_rows": ROW([0, 1])}, "either `stored`"),
        ({"reference_rows": ROW([0, 1])}, "needs `target_rows`"),
        ({"reference_rows": ROW([0]), "target_rows": ROW([2])}, "1 reference_rows for 2 masks"),
        ({"reference_rows": ROW([0, 1]), "target_rows": ROW([1, 2])}, r"rows \[1\] are both"),
        ({"reference_rows": ROW([0, 1]), "target_rows": ROW([2, 2])}, "a target twice"),
    ],
)
def test_rows_that_disagree(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message), fusing(unet(), PAPER, random_mask(2), **options):
        pass


def test_masks_are_bool_and_as_many_as_rows() -> None:
    with (
        pytest.raises(ValueError, match="M must be bool"),
        fusing(unet(), PAPER, torch.ones(2, 4, 6), stored={}),
    ):
        pass
    with recording_kv(unet(), PAPER) as tap:
        run(unet(), inputs())
    with (
        pytest.raises(ValueError, match="2 masks, 4 target rows"),
        fusing(unet(), PAPER, random_mask(2), stored=tap.kv),
    ):
        run(unet(), inputs())
    with pytest.raises(KeyError, match=r"mid\.0"), fusing(unet(), PAPER, random_mask(2), stored={}):
        pass
    assert is_stock(unet())


def test_four_dimensional_input_is_refused() -> None:
    with capturing(unet()) as _, pytest.raises(NotImplementedError):
        path = cross_attention_modules(unet(), "up_1")[0]
        unet().get_submodule(path)(torch.zeros(1, 16, 2, 2), torch.zeros(1, TOKENS, WIDTH))


def test_group_norm_residual_and_query_norms_as_stock() -> None:
    """Options of diffusers' Attention that Stable Diffusion's blocks leave off."""
    from torch.nn.functional import scaled_dot_product_attention

    from dfusion_core.attention.processor import HookedAttention

    torch.manual_seed(0)
    attn = Attention(
        16, heads=2, dim_head=8, norm_num_groups=4, qk_norm="layer_norm", residual_connection=True,
        rescale_output_factor=1.5, cross_attention_dim=8, cross_attention_norm="layer_norm", bias=True,
    ).eval()  # fmt: skip
    x, words = torch.randn(2, 6, 16), torch.randn(2, 5, 8)
    stock = AttnProcessor2_0()(attn, x, words)
    ours = HookedAttention(lambda Q, K, V, bias: scaled_dot_product_attention(Q, K, V, attn_mask=bias))
    assert torch.equal(ours(attn, x, words), stock)
