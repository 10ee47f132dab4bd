"""Thresholds go into a prompt file; everything else in it stays, to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfusion_core.commands.thresholds.writing import with_thresholds, write_thresholds
from dfusion_core.errors import PromptsError
from dfusion_core.prompts.reading import load_prompts

MIXED = """\
# my prompts

train:
- a [cat] eating a [sandwich]  # marked
- "[two dogs] say: \\"[[woof]]\\""
- {prompt: a red fox, items: [fox]}   # no thresholds yet
- {prompt: a blue owl, items: [owl],  thresholds: [ 0.5 ]} # old
- prompt: the hat above the bus    # block style

  items:
  - hat
  - bus     # last

# between
- thresholds:
  - 0.1     # pig
  - 0.2     # hen
  prompt: >
    the [pig] and
    the [hen]
- {
    prompt: a cow,  # over lines
    items: [cow],
  }
- prompt: a [yak]
  thresholds:
- a [gnu]
test:
- a plain text
- {prompt: a [dog], x: 1}
""".replace("- {prompt: a [dog], x: 1}\n", "- a [dog]\n")

WRITTEN = """\
# my prompts

train:
- {prompt: "a [cat] eating a [sandwich]", thresholds: [0.03, 0.005]}  # marked
- {prompt: "[two dogs] say: \\"[[woof]]\\"", thresholds: [0.01]}
- {prompt: a red fox, items: [fox], thresholds: [0.02]}   # no thresholds yet
- {prompt: a blue owl, items: [owl],  thresholds: [ 0.0312 ]} # old
- prompt: the hat above the bus    # block style

  items:
  - hat
  - bus     # last
  thresholds: [0.04, 0.05]

# between
- thresholds:
  - 0.06     # pig
  - 1e-05     # hen
  prompt: >
    the [pig] and
    the [hen]
- {
    prompt: a cow,  # over lines
    items: [cow], thresholds: [0.07],
  }
- prompt: a [yak]
  thresholds: [0.08]
- a [gnu]
test:
- a plain text
- a [dog]
"""
VALUES = [(0.03, 0.005), (0.01,), (0.02,), (0.0312,), (0.04, 0.05), (0.06, 0.00001), (0.07,), (0.08,)]


def test_only_thresholds_change(tmp_path: Path) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text(MIXED)
    before = load_prompts(file)
    write_thresholds(file, VALUES)
    assert file.read_text() == WRITTEN
    after = load_prompts(file)
    assert [prompt.thresholds for prompt in after.train] == [*VALUES, None]
    assert [(p.text, p.items) for p in after.train] == [(p.text, p.items) for p in before.train]
    assert after.test == before.test
    write_thresholds(file, VALUES)
    assert file.read_text() == WRITTEN


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("- a [cat]", '- {prompt: "a [cat]", thresholds: [0.1]}'),
        ("- a [cat]\r\n- a [dog]  # x\r\n", '- {prompt: "a [cat]", thresholds: [0.1]}\r\n- a [dog]  # x\r\n'),
        ("[ 'a [cat]' , 'a [dog]' ]", "[ {prompt: \"a [cat]\", thresholds: [0.1]} , 'a [dog]' ]"),
        ("- prompt: |-\n    a [cat]\n", "- prompt: |-\n    a [cat]\n  thresholds: [0.1]\n"),
        ("- 'Ünal''s [café] 🐱'\n", '- {prompt: "Ünal\'s [café] 🐱", thresholds: [0.1]}\n'),
        (
            "train: [{prompt: a cat, items: [cat], thresholds: null}]",
            "train: [{prompt: a cat, items: [cat], thresholds:  [0.1]}]",
        ),
    ],
)
def test_layouts(tmp_path: Path, text: str, written: str) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_bytes(text.encode())
    assert with_thresholds(file, [(0.1,)]) == written


def test_shared_values_are_refused(tmp_path: Path) -> None:
    text = "- {prompt: a cat, items: [cat], thresholds: &t [0.1]}\n- {prompt: a dog, items: [dog], thresholds: *t}\n"
    file = tmp_path / "prompts.yaml"
    file.write_text(text)
    with pytest.raises(PromptsError, match="cannot be edited in its place: it shares values through YAML anchors"):
        write_thresholds(file, [(0.2,), (0.3,)])
    assert file.read_text() == text
