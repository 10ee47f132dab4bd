"""Item words in CLIP's real vocabulary: where `item_tokens` finds them in the prompts of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
from transformers import CLIPTokenizer

from dfusion_core.attention.masks import ItemNotFound, item_tokens
from dfusion_core.models.clip_vocabulary import clip_tokenizer
from dfusion_core.prompts.reading import Prompt, load_prompts

ORIGINAL = open_clip.tokenizer.SimpleTokenizer()
SPLIT = {"woolen": ["woo", "len"], "computer": ["compu", "ter"]}  # all words of the 240 prompts that are two tokens
AWKWARD = (
    "",
    " ",
    "A CAT  eating\ta\nSandwich ",
    "the dog's ball isn't here, DON'T",
    "12 dogs in 1999, x2",
    "a 3.5-inch disk",
    "café naïve Übergröße",
    "cafe\u0301",
    "日本語の猫",
    "🐱 a cat 😀",
    "ß İ ñ",
    "don`t _a_ b-c (d) [e]",
    "...!?!",
    "\u00a0no-break\u00a0space",
    "word\u200bjoin",
    "x" * 300,
    "antidisestablishmentarianism",
)
CLEANED = ("tom &amp; jerry", "“quoted” cat’s", "ﬁsh", "Ａ wide")  # open_clip repairs such text first, SD does not


def paper() -> list[Prompt]:
    files = [load_prompts(f"dfusion_core/prompts/paper_{name}.yaml") for name in ("behaviour", "attribute", "relation")]
    return [prompt for file in files for prompt in (*file.train, *file.test)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return CLIPTokenizer.from_pretrained(clip_tokenizer(tmp_path_factory.mktemp("tokenizer")))


class NoOffsets:
    """The same tokenizer as slow ones are: ids only."""

    is_fast, model_max_length = False, 77

    def __init__(self, fast: Any) -> None:
        self.fast = fast

    def __call__(self, text: str, **options: Any) -> Any:
        return self.fast(text, **options)


def ids(text: str) -> list[int]:
    return [49406, *ORIGINAL.encode(text), 49407]


def test_entries_and_special_tokens(tokenizer: Any) -> None:
    assert len(tokenizer) == 49_408 == ORIGINAL.vocab_size
    assert tokenizer.is_fast and tokenizer.model_max_length == 77
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (49406, 49407, 49407)
    theirs = dict(ORIGINAL.encoder)
    theirs |= {"<|startoftext|>": theirs.pop("<start_of_text>"), "<|endoftext|>": theirs.pop("<end_of_text>")}
    assert tokenizer.get_vocab() == theirs


def test_known_ids(tokenizer: Any) -> None:
    """Those that the documentation of CLIP and of diffusers shows."""
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_padding(tokenizer: Any, tmp_path: Path) -> None:
    """SD 1.5 pads with the end token, SD 2.x with "!", whose id is 0."""
    second = CLIPTokenizer.from_pretrained(clip_tokenizer(tmp_path, pad_token="!"))
    short, other = (one("a cat", padding="max_length", max_length=77).input_ids for one in (tokenizer, second))
    assert short == [49406, 320, 2368, 49407] + [49407] * 73
    assert other == [49406, 320, 2368, 49407] + [0] * 73


def test_ids_are_the_originals(tokenizer: Any) -> None:
    texts = [prompt.text for prompt in paper()]
    assert len(texts) == 240
    for text in (*texts, *AWKWARD):
        assert tokenizer(text).input_ids == ids(text), text


@pytest.mark.parametrize("text", CLEANED)
def test_only_the_cleaning_before_differs(tokenizer: Any, text: str) -> None:
    assert tokenizer(text).input_ids != ids(text)
    assert tokenizer(ORIGINAL.clean_fn(text)).input_ids == ids(text)


def test_every_item_of_the_paper_is_found(tokenizer: Any) -> None:
    """The tokens at the found positions spell the word, and none of the others does."""
    for prompt in paper():
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(prompt.text).input_ids)
        for item in prompt.items:
            found = item_tokens(tokenizer, prompt.text, item)
            assert "".join(tokens[o] for o in found) == f"{item}</w>"
            assert [o for o, token in enumerate(tokens) if token == f"{item}</w>"] in ([*found], [])
            assert found == item_tokens(NoOffsets(tokenizer), prompt.text, item)


def test_words_of_several_tokens(tokenizer: Any) -> None:
    """Which words of the paper are split; an item behind one is not at its word's number."""
    words = {word for prompt in paper() for word in prompt.text.split()}
    pieces = {word: tokenizer.tokenize(word) for word in words}
    assert {word: found for word, found in pieces.items() if len(found) > 1} == {
        word: [first, f"{last}</w>"] for word, (first, last) in SPLIT.items()
    }
    moved = [
        (p.text, item)
        for p in paper()
        if p.thresholds
        for item in p.items
        if item_tokens(tokenizer, p.text, item)[0] != p.text.split().index(item) + 1
    ]
    assert moved == [
        ("a black and woolen bus", "bus"),
        ("a red and woolen dog", "dog"),
        ("a yellow and woolen table", "table"),
        ("a blue and woolen vase", "vase"),
        ("the computer below the counter", "counter"),
    ]


@pytest.mark.parametrize(
    ("text", "item", "tokens"),
    [
        ("the computer below the counter", "computer", ["compu", "ter</w>"]),
        ("the computer below the counter", "counter", ["counter</w>"]),
        ("The Skis below the sunglasses", "skis", ["skis</w>"]),
        ("the skis below the Sunglasses", "sunglasses", ["sunglasses</w>"]),
        ("a teddy bear  and a  teddy\tbear", "Teddy Bear", ["teddy</w>", "bear</w>"] * 2),
        ("the dog's bowl", "dog", ["dog</w>"]),
        ("the dog's bowl", "dog's", ["dog</w>", "'s</w>"]),
        ("a 'special' cat, sitting", "special", ["'s</w>", "pe", "cial</w>"]),  # so CLIP cuts it
        ("a 'special' cat, sitting", "cat", ["cat</w>"]),
        ("a semi-trailer in 1999", "semi-trailer", ["semi</w>", "-</w>", "trailer</w>"]),
        ("a semi-trailer in 1999", "1999", ["1</w>", "9</w>", "9</w>", "9</w>"]),
        ("un café, 🐱 naïve", "café", ["cafÃ©</w>"]),
        ("🐱🐱 ÜBER the 🐱 cat", "cat", ["cat</w>"]),
    ],
)
def test_awkward_items(tokenizer: Any, text: str, item: str, tokens: list[str]) -> None:
    read = tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)
    assert [read[o] for o in item_tokens(tokenizer, text, item)] == tokens


def test_an_item_behind_the_77th_token(tokenizer: Any) -> None:
    text = "a " * 74 + "cat dog"
    assert item_tokens(tokenizer, text, "cat") == (75,)
    with pytest.raises(ItemNotFound, match="first 77 tokens"):
        item_tokens(tokenizer, text, "dog")
