"""TXT, CSV, JSON and JSONL say what the YAML file says; what is wrong in them is named with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dfusion_core.errors import PromptsError
from dfusion_core.prompts.reading import load_prompts

LISTS: dict[str, list[Any]] = {
    "train": [
        {"prompt": "a cat eating a sandwich", "items": ["cat", "sandwich"], "thresholds": [0.03, 0.005]},
        'a "big" [fox], running',
        "über [Bäume]",
    ],
    "test": ["a dog riding a bike"],
}
FILES = {
    "a.json": json.dumps(LISTS),
    "a.jsonl": "\n".join(
        [
            *(json.dumps(one) for one in LISTS["train"]),
            "",
            json.dumps({"prompt": "a dog riding a bike", "split": "test"}),
        ]
    ),
    "a.csv": "prompt,items,thresholds,split\r\na cat eating a sandwich,cat; sandwich,0.03;0.005,train\r\n"
    '"a ""big"" [fox], running",,,\r\nüber [Bäume],,,train\r\na dog riding a bike,,,test\r\n',
}


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", FILES)
def test_they_hold_what_the_yaml_file_holds(name: str, mark: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(LISTS, allow_unicode=True), encoding="utf-8")
    (tmp_path / name).write_bytes((mark + FILES[name]).encode())
    assert load_prompts(tmp_path / name) == load_prompts(tmp_path / "a.yaml")


def test_a_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.TXT").write_bytes(b'# mine\r\n\r\n  a [cat], "big": true\r\na [dog]\r\n')
    found = load_prompts(tmp_path / "a.TXT")
    assert [(one.text, one.items) for one in found.train] == [('a cat, "big": true', ("cat",)), ("a dog", ("dog",))]
    assert found.test == ()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "text,items\na cat,cat\n", "line 1"),
        ("a.csv", "prompt,items\na cat,cat\na dog, brown,dog\n", "line 3"),
        ("a.csv", "prompt,items,thresholds\na cat,cat,0.1 0.2\n", "line 2.*0.1 0.2"),
        ("a.csv", "prompt,split\na [cat],valid\n", "line 2.*valid"),
        ("a.csv", 'prompt\n"a [cat]\n', "line"),
        ("a.csv", "", "line 1"),
        ("a.jsonl", '"a [cat]"\n{"prompt": }\n', "line 2"),
        ("a.jsonl", '{"prompt": "a [cat]", "split": "other"}\n', "line 1.*other"),
        ("a.json", '["a [cat]",\n "a [dog]"', "line 2"),
        ("a.json", '[{"prompt": "a [cat]", "prompt": "a [dog]"}]', "key twice"),
        ("a.json", '[{"prompt": "a [cat]", "thresholds": [NaN]}]', "NaN"),
        ("a.json", '["a [cat]\\u001b"]', "control character"),
        ("a.json", "[" * 100000, "nested too deeply"),
        ("a.txt", "a [cat\n", "is not closed"),
        ("a.txt", "# nothing\n", "at least one prompt"),
        ("a.txt", "a cat without marks\n", "items"),
    ],
)
def test_what_is_wrong_is_named(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(PromptsError, match=f"(?s)a.{name[2:]}.*{said}"):
        load_prompts(tmp_path / name)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a [c\xffat]\n")
    with pytest.raises(PromptsError, match="UTF-8"):
        load_prompts(tmp_path / "a.txt")
