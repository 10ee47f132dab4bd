"""Eq. (4): M_t = XOR over items of [ A_t^cross[:, :, o] >= thr_o ], and where an item's tokens are."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from dfusion_core.attention.masks import ItemNotFound, item_maps, item_mask, item_tokens, merge

PIECES = (
    "a", "cat", "cats", "eating", "sand", "wich", "the", "bus", "woo", "len", "and", "red",
    "traffic", "light", "by",
)  # fmt: skip


def split_word_tokenizer(max_length: int = 16) -> PreTrainedTokenizerFast:
    """Like CLIP's: a start token, lower case, long words in pieces (woo + len, sand + wich)."""
    vocab = {"<start>": 0, "<end>": 1, "<unk>": 2}
    for piece in PIECES:
        vocab |= {piece: len(vocab), f"##{piece}": len(vocab) + 1}
    core = Tokenizer(models.WordPiece(vocab, unk_token="<unk>", max_input_chars_per_word=50))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    core.post_processor = processors.TemplateProcessing(
        "<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=max_length, unk_token="<unk>")


class NoOffsets:
    """The same tokenizer as slow ones are: ids only."""

    is_fast = False

    def __init__(self, fast: Any) -> None:
        self.fast, self.model_max_length = fast, fast.model_max_length

    def __call__(self, text: str, **options: Any) -> Any:
        assert "return_offsets_mapping" not in options
        return self.fast(text, **options)


@pytest.fixture(params=["fast", "slow"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    fast = split_word_tokenizer()
    return fast if request.param == "fast" else NoOffsets(fast)


@pytest.mark.parametrize(
    ("prompt", "item", "positions"),
    [
        ("a cat eating a sandwich", "cat", (2,)),
        ("a cat eating a sandwich", "sandwich", (5, 6)),  # two pieces
        ("a red and woolen bus", "bus", (6,)),  # a word index (5) would read "len"
        ("A Cat EATING a sandwich", "cAT", (2,)),
        ("a cat and a cat", "cat", (2, 5)),
        ("the traffic light by the bus", "traffic light", (2, 3)),
        ("the traffic  light by the bus", "traffic light", (2, 3)),
        ("cats and a cat", "cat", (4,)),
    ],
)
def test_item_tokens(tokenizer: Any, prompt: str, item: str, positions: tuple[int, ...]) -> None:
    assert item_tokens(tokenizer, prompt, item) == positions


@pytest.mark.parametrize("item", ["dog", "cats", "ca", "cat sandwich", ""])
def test_item_not_in_the_prompt(tokenizer: Any, item: str) -> None:
    with pytest.raises(ItemNotFound, match="a cat eating a sandwich") as caught:
        item_tokens(tokenizer, "a cat eating a sandwich", item)
    assert repr(item) in str(caught.value) and "a, cat, eating, a, sandwich" in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_item_beyond_what_the_text_encoder_reads() -> None:
    prompt = "a red cat and a red cat by the bus"
    short = split_word_tokenizer(max_length=6)  # start, a, red, cat, and, end
    assert item_tokens(short, prompt, "cat") == (3,)
    for tokenizer in (short, NoOffsets(short)):
        with pytest.raises(ItemNotFound, match="first 6 tokens"):
            item_tokens(tokenizer, prompt, "bus")


def test_item_maps_average_the_tokens_of_an_item() -> None:
    A_cross = torch.arange(2 * 1 * 2 * 4.0).view(2, 1, 2, 4)
    maps = item_maps(A_cross, [(1,), (0, 3)])
    assert maps.tolist() == [[[[1.0, 5.0]], [[1.5, 5.5]]], [[[9.0, 13.0]], [[9.5, 13.5]]]]


def test_threshold_is_inclusive() -> None:
    maps = torch.tensor([[[[0.02, 0.03]], [[0.005, 0.004]]]])
    assert item_mask(maps, (0.03, 0.005)).tolist() == [[[[False, True]], [[True, False]]]]
    assert item_mask(maps, 0.02).tolist() == [[[[True, True]], [[False, False]]]]


def test_relative_threshold_is_a_multiple_of_the_spatial_mean() -> None:
    """Map 1, 3, 2, 2 has mean 2: at 1.0 the mask is >= 2, at 1.5 >= 3; the map's scale is irrelevant."""
    maps = torch.tensor([[[[1.0, 3.0], [2.0, 2.0]]]])
    assert item_mask(maps, 1.0, "relative").flatten().tolist() == [False, True, True, True]
    assert item_mask(maps / 1024, 1.5, "relative").flatten().tolist() == [False, True, False, False]


def test_merge_is_xor_as_printed() -> None:
    """All combinations of three items: XOR is true for an odd number of them, OR for any."""
    table = list(itertools.product([False, True], repeat=3))
    masks = torch.tensor(table).T.view(1, 3, 1, 8)
    assert merge(masks).flatten().tolist() == [(a ^ b) ^ c for a, b, c in table]
    assert merge(masks, "or").flatten().tolist() == [a or b or c for a, b, c in table]


def test_refused() -> None:
    maps = torch.zeros(1, 2, 1, 1)
    with pytest.raises(ValueError, match="3 thresholds for 2 items"):
        item_mask(maps, (0.1, 0.2, 0.3))
    with pytest.raises(ValueError, match="'relatif'"):
        item_mask(maps, 0.1, "relatif")
    with pytest.raises(ValueError, match="'and'"):
        merge(maps.bool(), "and")
