"""Broken inputs out of valid ones, and out of nothing: by bytes, by lines and words, by the nodes of YAML or JSON."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable
from typing import Any

import yaml

WORDS = (
    "",
    " ",
    "nan",
    ".nan",
    "inf",
    "-.inf",
    "1e309",
    "-1",
    "0",
    "1",
    "0.5",
    "1e-400",
    "9" * 30,
    "9" * 5000,
    "0x1f",
    "1_0",
    "true",
    "null",
    "~",
    "NA",
    "'",
    '"',
    "`",
    "#",
    ",",
    ",,,",
    ";",
    ":",
    "? ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    "[[",
    "]]",
    "<<",
    "=",
    "%",
    "@",
    "|",
    ">",
    "&a",
    "*a",
    "&a [*a]",
    "<<: *a",
    "!!python/object/apply:os.system [id]",
    "!!binary aGk=",
    "!!set {a}",
    "!!timestamp 2020-01-01",
    "!!int x",
    "!!float x",
    "!!bool x",
    "!!null x",
    "\\",
    "\0",
    "\t",
    "\r",
    "\n",
    "\r\n",
    "\x1b[2J",
    '"\\e[31m"',
    '"\\ud800"',
    "\x85",
    "\u2028",
    "\ufeff",
    "\u202e",
    "\U0001f600",
    "e\u0301",
    "\u0663",
    "=cmd|' /C calc'!A0",
    "../../../etc/passwd",
    "/dev/zero",
    "~root",
    "$HOME",
    "$(id)",
    "; id",
    "%00",
    "%s%n",
    "<script>alert(1)</script>",
    "&amp;",
    "{{7*7}}",
    "${model.id}",
    "x" * 5000,
    "[" * 200,
    "{a: " * 200,
    "a: b\n" * 50,
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63,
    -(2**70),
    10**400,
    0.5,
    -0.0,
    1e308,
    float("inf"),
    float("nan"),
    "",
    " ",
    "x",
    "r00",
    "init",
    "nan",
    "1",
    "../x",
    "x" * 5000,
    "\x1b[2J",
    "a\nb",
    [],
    {},
    [[]],
    [None],
    [1, "a"],
    {"a": {}},
    {"": ""},
    [[[[[[[[1]]]]]]]],
    {"x": [{"y": None}]},
    list(range(300)),
)
Mutation = Callable[[random.Random, bytes], bytes]


def by_bytes(rng: random.Random, data: bytes) -> bytes:
    """A few bytes changed, put in, left out or repeated; sometimes the end cut off."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at, size = rng.randrange(len(changed) + 1), rng.randint(1, 8)
        kind = rng.randrange(5)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at:at] = rng.randbytes(size)
        elif kind == 2:
            del changed[at : at + size]
        elif kind == 3:
            changed[at:at] = changed[at : at + 10 * size]
        elif rng.random() < 0.2:
            del changed[at:]
    return bytes(changed)


def by_words(rng: random.Random, data: bytes) -> bytes:
    """Lines left out, repeated or exchanged; words replaced by ones that mean something to a parser."""
    lines = data.decode(errors="replace").splitlines(keepends=True) or [""]
    for _ in range(rng.randint(1, 4)):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        kind = rng.randrange(6)
        if kind == 0 and len(lines) > 1:
            del lines[at]
        elif kind == 1:
            lines.insert(other, lines[at])
        elif kind == 2:
            lines[at], lines[other] = lines[other], lines[at]
        else:
            found = list(re.finditer(r"[\w.+-]+|[^\w\s]", lines[at]))
            if found:
                word = rng.choice(found)
                lines[at] = lines[at][: word.start()] + rng.choice(WORDS) + lines[at][word.end() :]
    return "".join(lines).encode(errors="surrogatepass")


def by_nodes(dump: Callable[[Any], str]) -> Mutation:
    """Values and keys of the parsed content replaced, left out, added or moved, written by ``dump``."""

    def mutate(rng: random.Random, data: bytes) -> bytes:
        try:
            content = copy.deepcopy(yaml.safe_load(data))
        except yaml.YAMLError:
            return by_bytes(rng, data)
        for _ in range(rng.randint(1, 3)):
            content = _changed(rng, content, rng.randrange(4))
        return dump(content).encode(errors="surrogatepass")

    return mutate


def _changed(rng: random.Random, content: Any, depth: int) -> Any:
    """``content`` with one change at that depth, or where it ends."""
    if depth == 0 or not isinstance(content, dict | list) or not content:
        value = rng.choice([*VALUES, [content], {"x": content}])
        return copy.deepcopy(value)  # or one value would be in two places, and after more changes in itself
    key = rng.choice(list(content) if isinstance(content, dict) else range(len(content)))
    kind = rng.randrange(8)
    if kind == 0:
        del content[key]
    elif kind == 1 and isinstance(content, dict):
        content[rng.choice(WORDS)] = copy.deepcopy(content[key])
    elif kind == 2 and isinstance(content, list):
        content.append(copy.deepcopy(content[key]))
    else:
        content[key] = _changed(rng, content[key], depth - 1)
    return content


def from_nothing(rng: random.Random, data: bytes) -> bytes:
    """Random bytes, or a random row of words that parsers know; of the valid input nothing but its words."""
    if rng.random() < 0.2:
        return rng.randbytes(rng.randrange(300))
    own = re.findall(r"[\w.]+", data.decode(errors="replace"))
    words = rng.choices([*WORDS, ": ", ": ", "\n", "\n", "  ", ", ", *own], k=rng.randrange(60))
    return "".join(words).encode(errors="surrogatepass")


def as_yaml(content: Any) -> str:
    """YAML, as a program would write it."""
    return yaml.safe_dump(content, sort_keys=False)


def as_json(content: Any) -> str:
    """JSON, with NaN and infinity in JavaScript's words."""
    return json.dumps(content)
