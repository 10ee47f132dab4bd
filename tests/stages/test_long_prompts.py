"""model.long_prompts: prompts that are longer than the encoder reads are cut, refused, or encoded in chunks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from steps import change, policy_of, run

from dfusion_core.attention.control import capturing
from dfusion_core.errors import PromptsError
from dfusion_core.models.policy import Policy, load_policy
from dfusion_core.params.sections import Model, Sample
from dfusion_core.testing import PROMPTS, tiny_sdxl
from dfusion_core.tiny_parts import TOKENS

TEXT = "a heart holding a balloon"
LONG = " ".join(["a red circle above a blue square"] * 3 + ["and a star"])  # 24 words; a chunk has 14
SECOND = " ".join(LONG.split()[TOKENS - 2 :])


def latents(policy: Policy, n: int = 1) -> torch.Tensor:
    return torch.randn(n, *policy.latent_shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def chunked(project: Path) -> Policy:
    change(model={"long_prompts": "chunks"})
    return policy_of("init")


def test_chunks_are_encoded_one_by_one(chunked: Policy) -> None:
    text = chunked.embed([LONG, TEXT])
    assert text.states.shape[1] == 2 * TOKENS and text.mask is not None
    assert text.mask.sum(dim=1).tolist() == [2 * TOKENS, TOKENS]
    change()
    plain = policy_of("init")
    parts = plain.embed([" ".join(LONG.split()[: TOKENS - 2]), SECOND])
    torch.testing.assert_close(text.states[0], parts.states.flatten(0, 1), rtol=0, atol=1e-6)
    torch.testing.assert_close(text.states[1, :TOKENS], plain.embed([TEXT]).states[0], rtol=0, atol=1e-6)
    assert chunked.embed([TEXT]).mask is None


def test_a_prompt_does_not_depend_on_its_batch(chunked: Policy) -> None:
    """Short prompts beside long ones are padded and masked; the empty prompt as well."""
    x = latents(chunked, 2)
    together = chunked.predict_noise(x, 1, chunked.embed([LONG, TEXT]))
    alone = [chunked.predict_noise(x[k : k + 1], 1, chunked.embed([text])) for k, text in enumerate((LONG, TEXT))]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)
    change()
    cut = policy_of("init").predict_noise(x, 1, policy_of("init").embed([LONG, TEXT]))
    torch.testing.assert_close(together[1], cut[1], rtol=0, atol=1e-4)
    assert not torch.allclose(together[0], cut[0], atol=1e-3)


def test_items_of_a_later_chunk(chunked: Policy) -> None:
    """ "star" is the last word: its map is what that token's key gets, and zero where a shorter prompt has nothing."""
    positions = chunked.encode.positions(LONG, "star")
    assert positions == (TOKENS + 1 + SECOND.split().index("star"),)
    first = chunked.encode.positions(LONG, "circle")
    assert first == (3, 10, TOKENS + 1 + SECOND.split().index("circle"))
    with torch.no_grad(), capturing(chunked.unet, "up_1") as tap:
        chunked.predict_noise(latents(chunked, 2), 0, chunked.embed([LONG, TEXT]))
    maps = tap.maps()[2:]
    assert maps.shape[-1] == 2 * TOKENS and maps[0, ..., positions[0]].min() > 0 and not maps[1, ..., TOKENS:].any()
    torch.testing.assert_close(maps.sum(-1), torch.ones_like(maps[..., 0]), rtol=0, atol=1e-5)


def test_sdxl_takes_the_first_chunks_pooled_output(tmp_path: Path) -> None:
    folder = tiny_sdxl(tmp_path)
    plain, chunks = (
        load_policy(Model(id=str(folder), device="cpu", long_prompts=how), Sample(num_steps=4), None)
        for how in ("cut", "chunks")
    )
    first = " ".join(LONG.split()[: TOKENS - 2])
    text = chunks.embed([LONG, "", TEXT])
    torch.testing.assert_close(text.pooled, plain.embed([first, "", TEXT]).pooled, rtol=0, atol=1e-6)
    torch.testing.assert_close(text.states[0, TOKENS:], plain.embed([SECOND]).states[0], rtol=0, atol=1e-6)
    assert not text.states[1].any()


@pytest.mark.few(1)
@pytest.mark.parametrize("how", ["cut", "refuse", "chunks"])
def test_the_stage_says_what_becomes_of_it(how: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dfusion_core.params.strict_yaml import dump_yaml

    entry = {"prompt": LONG, "items": ["circle"]}
    Path("prompts.yaml").write_text(dump_yaml(PROMPTS | {"train": [entry]}))
    change(model={"long_prompts": how}, rounds={"r00": {"prev": "init"}})
    run("init")
    if how == "refuse":
        with pytest.raises(PromptsError) as error:
            run("sample")
        assert "and a star" in error.value.message and "model.long_prompts" in error.value.hint
        return
    run("sample")
    assert ("is cut off" in capsys.readouterr().out) == (how == "cut")
