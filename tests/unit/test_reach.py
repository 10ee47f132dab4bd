"""Prompt text that does not reach an encoder: named, and refused where it decides a result."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from open_clip.tokenizer import SimpleTokenizer

from dfusion_core.errors import PromptsError
from dfusion_core.models.builtin import WEIGHTS
from dfusion_core.models.clip_vocabulary import clip_tokenizer
from dfusion_core.params.sections import Reward
from dfusion_core.prompts.reach import Reader, check_reach, cut_part, huggingface_reader
from dfusion_core.prompts.reading import Prompt
from dfusion_core.rewards.tokens import check_reward_reach, load_tokenizer
from dfusion_core.rewards.tokens import reader as reward_reader

LONG = "a blue and dotted square above a heart below the red star left of the moon right of a hat"


def model_reader(folder: Path) -> Reader:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return huggingface_reader(
        "the model's tokenizer",
        tokenizer,
        tokenizer.model_max_length,
        lambda texts: [
            tuple(row)
            for row in tokenizer(
                texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length
            ).input_ids
        ],
    )


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    """The micro-world's tokenizer and CLIP's, of a model and of a reward."""
    return {
        "micro": model_reader(WEIGHTS / "tokenizer"),
        "clip": model_reader(clip_tokenizer(tmp_path_factory.mktemp("clip"))),
        "micro-clip": reward_reader(load_tokenizer("micro-clip")),
        "open_clip": reward_reader(SimpleTokenizer()),
    }


NAMES = pytest.mark.parametrize("name", ["micro", "clip", "micro-clip", "open_clip"])


def long(reader: Reader) -> str:
    return LONG if reader.limit == 16 else " and ".join([LONG] * 5)


@NAMES
def test_a_prompt_that_is_too_long_is_a_warning_that_says_what_is_cut(readers: dict[str, Reader], name: str) -> None:
    reader = readers[name]
    text = long(reader)
    said = check_reach([Prompt(text, ("square",)), Prompt("a heart", ("heart",))], [reader])
    rest = cut_part(text, reader)
    assert str(reader.limit) in said and str(reader.count(text)) in said and rest[:20] in said
    kept = text.removesuffix(rest)
    assert kept != text and reader.count(kept) <= reader.limit < reader.count(f"{kept}{rest.split()[0]}")
    assert reader.rows([text])[0][1:-1] == reader.rows([kept])[0][1:-1]


@NAMES
def test_prompts_that_fit_give_no_warning(readers: dict[str, Reader], name: str) -> None:
    assert check_reach([Prompt("a heart", ("heart",)), Prompt("a star", ("star",))], [readers[name]]) == ""


@NAMES
def test_a_prompt_of_exactly_the_limit_is_whole(readers: dict[str, Reader], name: str) -> None:
    reader = readers[name]
    fits = " ".join(["star"] * (reader.limit - 2))
    assert reader.count(fits) == reader.limit and check_reach([Prompt(fits, ("star",))], [reader]) == ""
    assert "is cut off" in check_reach([Prompt(f"{fits} moon", ())], [reader])


@NAMES
def test_an_item_that_is_cut_off_is_refused(readers: dict[str, Reader], name: str) -> None:
    with pytest.raises(PromptsError, match="lamp") as caught:
        check_reach([Prompt(f"{long(readers[name])} lamp", ("square", "lamp"))], [readers[name]])
    assert str(readers[name].limit) in str(caught.value)


@NAMES
def test_two_prompts_that_become_the_same_tokens_are_refused(readers: dict[str, Reader], name: str) -> None:
    text = long(readers[name])
    with pytest.raises(PromptsError, match="is the same as"):
        check_reach([Prompt(f"{text} star", ("square",)), Prompt(f"{text} moon", ("square",))], [readers[name]])
    with pytest.raises(PromptsError, match="is the same as"):
        check_reach([Prompt("a heart", ("heart",)), Prompt("A  HEART", ("HEART",))], [readers[name]])


def test_two_tokenizers_tell_apart_what_one_of_them_does_not(readers: dict[str, Reader]) -> None:
    pair = [Prompt(f"{LONG} and {LONG} star", ("square",)), Prompt(f"{LONG} and {LONG} moon", ("square",))]
    assert check_reach(pair, [readers["micro"], readers["clip"]])  # a warning of the first one's
    with pytest.raises(PromptsError, match="is the same as"):
        check_reach(pair, [readers["micro"]])


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("micro", "a heart with a ☃ snowman", "☃"),
        ("micro", "a <b> heart", "<b>"),
        ("micro-clip", "ein Herz für dich", "für"),
        ("micro", "a <|endoftext|> heart", "<|endoftext|>"),
        ("clip", "a <|endoftext|> heart", "<|endoftext|>"),
        ("open_clip", "a <end_of_text> heart", "<end_of_text>"),
        ("clip", "<|startoftext|> heart", "<|startoftext|>"),
    ],
)
def test_words_that_the_vocabulary_lacks(readers: dict[str, Reader], name: str, text: str, word: str) -> None:
    with pytest.raises(PromptsError) as caught:
        check_reach([Prompt(text, ())], [readers[name]])
    assert repr(word) in str(caught.value)
    assert ("umbrella" in str(caught.value)) == name.startswith("micro")  # of a small vocabulary, all of it


def test_every_word_has_tokens_in_clip(readers: dict[str, Reader]) -> None:
    assert (
        check_reach(
            [Prompt("ein Herz für dich, ☃ <b> 'x' \"y\" 你好 😀!", ())], [readers["clip"], readers["open_clip"]]
        )
        == ""
    )


def test_a_reward_without_weight_only_warns() -> None:
    tokenizer = load_tokenizer("micro-clip")
    lost = [Prompt(LONG, ("hat",))]
    with pytest.raises(PromptsError):
        check_reward_reach(lost, tokenizer, Reward(model="micro-clip"))
    assert "hat" in check_reward_reach(lost, tokenizer, Reward(model="micro-clip", weight=0.0))
