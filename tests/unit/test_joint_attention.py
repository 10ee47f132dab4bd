"""Masks and fusion in the joint attention of SD 3 and FLUX, against explicit attention of their own projections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

from dfusion_core.attention.control import capturing, fusing, recording_kv
from dfusion_core.attention.layers import (
    LayerError,
    cross_attention_modules,
    fused_layers,
    layer_paths,
    self_attention_modules,
)
from dfusion_core.fusion.targets import References, denoise_fused
from dfusion_core.models.policy import Policy, load_policy
from dfusion_core.params.sections import Model, Sample
from dfusion_core.testing import tiny_flux, tiny_sd3

TEXTS = ["a heart holding a balloon", "the star above the moon"]
BLOCKS = {"sd3": ["block_0", "block_1", "block_2"], "flux": ["block_0", "block_1", "single_0", "single_1"]}


@pytest.fixture(scope="module", params=["sd3", "flux"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policy]:
    make = {"sd3": tiny_sd3, "flux": tiny_flux}[request.param]
    folder = make(tmp_path_factory.mktemp(request.param))
    yield load_policy(Model(id=str(folder), device="cpu"), Sample(num_steps=4, guidance_scale=3.0), None)


@pytest.fixture
def blocks(policy: Policy) -> list[str]:
    return BLOCKS["flux" if hasattr(policy.unet, "single_transformer_blocks") else "sd3"]


def latents(seed: int, n: int = 2) -> Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def checks(n: int) -> Tensor:
    """Masks of the 4 x 4 image tokens with about half of them."""
    return torch.rand(n, 4, 4, generator=torch.Generator().manual_seed(5)) < 0.5


@torch.no_grad()
def predict(policy: Policy, x: Tensor, texts: list[str]) -> Tensor:
    return policy.predict_noise(x, 1, policy.embed(texts))


class Explicit:
    """Attention written out: projections, positions, softmax and sum, with the image's keys and values exchanged.

    reference, target: rows of the batch; M (target, token). ``seen`` keeps the image's softmax over the text.
    """

    def __init__(
        self, image_first: bool, M: Tensor | None = None, rows: tuple[list[int], list[int]] = ([], [])
    ) -> None:
        self.image_first, self.M, self.rows = image_first, M, rows
        self.seen: Tensor | None = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Any:
        image = self.project(attn, hidden_states, "to_q", "to_k", "to_v", "norm_q", "norm_k")
        parts, text_tokens = [image], 0
        if encoder_hidden_states is not None:
            text_tokens = encoder_hidden_states.shape[1]
            names = ("add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k")
            text = self.project(attn, encoder_hidden_states, *names)
            parts = [image, text] if self.image_first else [text, image]
        elif not self.image_first:  # a single block of FLUX: the sequence is joined already
            text_tokens = hidden_states.shape[1] - 16
        Q, K, V = (torch.cat(same, dim=1) for same in zip(*parts, strict=True))  # (row, token, head, channel)
        if image_rotary_emb is not None:
            Q, K = (apply_rotary_emb(x, image_rotary_emb, sequence_dim=1) for x in (Q, K))
        first = 0 if self.image_first else text_tokens
        places = torch.arange(16) + first
        K, V = K.clone(), V.clone()
        for k, (r, a) in enumerate(zip(*self.rows, strict=True)):
            inside = places[self.M[k].flatten()]
            K[a, inside], V[a, inside] = K[r, inside], V[r, inside]
        logits = torch.einsum("bqhc,bkhc->bhqk", Q, K) / Q.shape[-1] ** 0.5
        words = [k for k in range(K.shape[1]) if k not in set(places.tolist())]
        if words:
            self.seen = logits[:, :, places][..., words].softmax(-1).mean(1)
        out = torch.einsum("bhqk,bkhc->bqhc", logits.softmax(-1), V).flatten(2)
        if encoder_hidden_states is None:
            return attn.to_out[1](attn.to_out[0](out)) if self.image_first else out
        of_image = attn.to_out[1](attn.to_out[0](out[:, places]))
        of_text = out[:, words]
        return of_image, of_text if attn.context_pre_only else attn.to_add_out(of_text)

    @staticmethod
    def project(attn: Any, x: Tensor, q: str, k: str, v: str, norm_q: str, norm_k: str) -> list[Tensor]:
        Q, K, V = (getattr(attn, name)(x).unflatten(-1, (attn.heads, -1)) for name in (q, k, v))
        return [getattr(attn, norm_q)(Q), getattr(attn, norm_k)(K), V]


def written_out(
    policy: Policy, x: Tensor, texts: list[str], modules: list[str], **how: Any
) -> tuple[Tensor, list[Any]]:
    """The prediction with these modules written out, and their processors."""
    network, first = policy.unet, not hasattr(policy.unet, "single_transformer_blocks")
    stock = dict(network.attn_processors)
    explicit = {f"{path}.processor": Explicit(first, **how) for path in modules}
    network.set_attn_processor({**stock, **explicit})
    try:
        return predict(policy, x, texts), list(explicit.values())
    finally:
        network.set_attn_processor(stock)


def test_names_of_blocks(policy: Policy, blocks: list[str]) -> None:
    assert list(layer_paths(policy.unet)) == blocks
    modules = self_attention_modules(policy.unet, blocks)
    assert modules["block_1.0"] == "transformer_blocks.1.attn"
    if "single_0" not in blocks:  # the second attention of SD 3.5's first block
        assert modules["block_0.1"] == "transformer_blocks.0.attn2" and len(modules) == 4
    assert cross_attention_modules(policy.unet, "block_0") == ("transformer_blocks.0.attn",)


def test_blocks_that_do_not_exist_are_refused_with_what_to_set(policy: Policy, blocks: list[str]) -> None:
    with pytest.raises(LayerError) as caught:
        fused_layers(policy.unet, ["block_0", "block_9"])
    assert "block_9" in str(caught.value) and f"Set fuse.layers to [{', '.join(blocks)}]" in caught.value.hint
    for name in ("up_1", "block_9", "same_resolution"):
        with pytest.raises(LayerError) as caught:
            cross_attention_modules(policy.unet, name)
        assert name in caught.value.message and "sample.maps" in caught.value.message
        assert any(f"as {block}." in caught.value.hint or f"to {block}." in caught.value.hint for block in blocks)


def test_maps_are_the_softmax_over_the_text_alone(policy: Policy, blocks: list[str]) -> None:
    x = latents(0)
    plain = predict(policy, x, TEXTS)
    for name in blocks:
        path = cross_attention_modules(policy.unet, name)[0]
        with capturing(policy.unet, name) as tap:
            assert torch.equal(predict(policy, x, TEXTS), plain)
        found = tap.maps()
        _, (explicit,) = written_out(policy, x, TEXTS, [path])
        torch.testing.assert_close(found.flatten(1, 2), explicit.seen, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:3]))
        assert found.shape[:3] == (2 * policy.halves, 4, 4) and found.std() > 1e-4


def rows_of(policy: Policy, pairs: int) -> tuple[Tensor, Tensor]:
    """References and targets of a batch [references, targets] in each half of guidance."""
    place = torch.cat([torch.arange(pairs) + 2 * pairs * half for half in range(policy.halves)])
    return place, place + pairs


def test_an_empty_mask_is_the_base_exactly(policy: Policy, blocks: list[str]) -> None:
    x = torch.cat([latents(0, 1), latents(1, 1)])
    reference, target = rows_of(policy, 1)
    M = torch.zeros(policy.halves, 4, 4, dtype=torch.bool)
    plain = predict(policy, x, TEXTS[:1] * 2)
    with fusing(policy.unet, blocks, M, reference_rows=reference, target_rows=target):
        assert torch.equal(predict(policy, x, TEXTS[:1] * 2), plain)


def test_a_reference_that_is_the_base_changes_nothing(policy: Policy, blocks: list[str]) -> None:
    x = latents(0, 1).repeat(2, 1, 1, 1)
    reference, target = rows_of(policy, 1)
    plain = predict(policy, x, TEXTS[:1] * 2)
    with fusing(policy.unet, blocks, checks(policy.halves), reference_rows=reference, target_rows=target):
        torch.testing.assert_close(predict(policy, x, TEXTS[:1] * 2), plain, rtol=0, atol=1e-6)


def test_fusion_is_that_of_explicit_attention(policy: Policy, blocks: list[str]) -> None:
    x = torch.cat([latents(0, 1), latents(1, 1)])
    reference, target = rows_of(policy, 1)
    M, texts = checks(policy.halves), TEXTS[:1] * 2
    plain = predict(policy, x, texts)
    for chosen in (blocks, blocks[1:2], blocks[-1:]):
        with fusing(policy.unet, chosen, M, reference_rows=reference, target_rows=target):
            found = predict(policy, x, texts)
        modules = list(self_attention_modules(policy.unet, chosen).values())
        expected, _ = written_out(policy, x, texts, modules, M=M, rows=(reference.tolist(), target.tolist()))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[0], plain[0], rtol=0, atol=1e-6)  # the reference is left alone
        assert (found[1] - plain[1]).abs().max() > 1e-3


def test_recorded_keys_are_the_images_alone_and_fuse_as_in_lock_step(policy: Policy, blocks: list[str]) -> None:
    T = policy.schedule.num_steps
    base, reference = (policy.sample([seed, seed + 1], policy.embed(TEXTS)).trajectories.x for seed in (1, 11))
    kv = {}
    for i in range(1, T):
        with recording_kv(policy.unet, blocks) as tap:
            policy.predict_noise(reference[:, i], i, policy.embed(TEXTS))
        assert all(K.shape[2] == 16 and K.shape[0] == 2 * policy.halves for K, _ in tap.kv.values())
        kv[i] = tap.kv
    M = checks(2)[:, None].expand(-1, T, -1, -1)
    noise = torch.zeros(2, T, 4, 8, 8)
    both = [
        denoise_fused(policy, base, noise, policy.embed(TEXTS), References(reference, M, stored), blocks, range(1, T))
        for stored in (None, kv)
    ]
    torch.testing.assert_close(both[0], both[1], rtol=1e-4, atol=1e-5)
    assert torch.equal(both[0][:, :2], base[:, :2]) and (both[0][:, -1] - base[:, -1]).abs().max() > 1e-3


def test_the_stock_processors_are_put_back(policy: Policy, blocks: list[str]) -> None:
    before = dict(policy.unet.attn_processors)
    with pytest.raises(KeyError), fusing(policy.unet, blocks, checks(2), stored={}):
        pass
    with capturing(policy.unet, blocks[0]):
        assert policy.unet.attn_processors != before
    assert policy.unet.attn_processors == before
