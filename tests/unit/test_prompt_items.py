"""Marks in a prompt, by hand."""

from __future__ import annotations

import pytest

from dfusion_core.prompts.items import MarkError, read_marks, word_spans


@pytest.mark.parametrize(
    ("marked", "text", "items"),
    [
        ("a [cat] eating a [sandwich]", "a cat eating a sandwich", ("cat", "sandwich")),
        ("a [teddy  bear]", "a teddy  bear", ("teddy bear",)),
        ("[cat]", "cat", ("cat",)),
        ("no marks", "no marks", ()),
        ("", "", ()),
        ("a [[sign]] with a [cat]", "a [sign] with a cat", ("cat",)),
        ("[[[cat]]]", "[cat]", ("cat",)),
        ("a [cat]]] and", "a cat] and", ("cat",)),
        ("]][[", "][", ()),
        ("a [cat][dog]", "a catdog", ("cat", "dog")),
        ("🐱 [Ünal's café] {x}", "🐱 Ünal's café {x}", ("Ünal's café",)),
    ],
)
def test_marks(marked: str, text: str, items: tuple[str, ...]) -> None:
    assert read_marks(marked) == (text, items)


@pytest.mark.parametrize(
    ("marked", "message"),
    [
        ("a [cat", "the [ at character 3 is not closed; a bracket of the text is written [["),
        ("a cat]", "the ] at character 6 closes nothing; a bracket of the text is written ]]"),
        ("a [big [cat]]", "the [ at character 3 is not closed; a bracket of the text is written [["),
        ("a [] cat", "the mark [] at character 3 is empty"),
        ("[a] [ ] cat", "the mark [ ] at character 5 is empty"),
        ("a [cat]] and", "the ] at character 8 closes nothing; a bracket of the text is written ]]"),
    ],
)
def test_wrong_marks(marked: str, message: str) -> None:
    with pytest.raises(MarkError) as caught:
        read_marks(marked)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "item", "found"),
    [
        ("a cat and a Cat", "cat", ["cat", "Cat"]),
        ("cats, a cat's tail", "cat", ["cat"]),
        ("a b  c", "b c", ["b  c"]),
        ("a cat", "ca", []),
        ("a cat", "", []),
        ("a cat", " ", []),
        ("c++ or c", "c++", ["c++"]),
    ],
)
def test_word_spans(text: str, item: str, found: list[str]) -> None:
    assert [text[start:end] for start, end in word_spans(text, item)] == found
