"""Writing thresholds to a prompt file: only the changed values are edited.

The YAML parser reports the positions of values in the text, so that comments, order and layout are kept. After the
edit the text is read again and must have the intended content.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ruamel.yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode, SequenceNode

from ...errors import PromptsError
from ...params.strict_yaml import compose_yaml, parse_yaml
from ...prompts.reading import PromptFile, checked_prompts
from ...store.atomic import write_bytes

Thresholds = Sequence[tuple[float, ...]]
Edit = tuple[int, int, str]  # from, to, replacement


def write_thresholds(file: Path, thresholds: Thresholds) -> None:
    """Give the first training prompts of ``file`` these thresholds, one tuple per prompt. Raises PromptsError."""
    write_bytes(file, with_thresholds(file, thresholds).encode())


def with_thresholds(file: Path, thresholds: Thresholds) -> str:
    """The text of ``file`` with these thresholds.

    Raises PromptsError if values are shared through YAML anchors, so that editing is not possible.
    """
    text = file.read_bytes().decode()
    before = checked_prompts(parse_yaml(text), file.name)
    edits = [
        edit for node, values in zip(_entries(text), thresholds, strict=False) for edit in _edits(text, node, values)
    ]
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    if not _says(text, before, thresholds):
        raise PromptsError(
            f"thresholds: {file} cannot be edited in its place: it shares values through YAML anchors, or its layout "
            "is unusual.",
            "Run it without --write and copy the thresholds of the table.",
        )
    return text


def _says(text: str, before: PromptFile, thresholds: Thresholds) -> bool:
    """Whether the text has the same prompts with these thresholds."""
    count = len(thresholds)
    changed = [
        replace(prompt, thresholds=values) for prompt, values in zip(before.train[:count], thresholds, strict=True)
    ]
    try:
        after = checked_prompts(parse_yaml(text), "")
    except (ValueError, PromptsError):
        return False
    return after == PromptFile((*changed, *before.train[count:]), before.test)


def _entries(text: str) -> list[Node]:
    """The entries of the list of training prompts."""
    root = compose_yaml(text)
    entries = _value(root, "train") if isinstance(root, MappingNode) else root
    assert isinstance(entries, SequenceNode)  # the file was read before
    return list(entries.value)


def _value(mapping: MappingNode, key: str) -> Node | None:
    return next((value for name, value in mapping.value if name.value == key), None)


def _edits(text: str, entry: Node, values: tuple[float, ...]) -> Iterator[Edit]:
    """The edits that give one entry its thresholds."""
    new = json.dumps(list(values))
    if isinstance(entry, ScalarNode):
        prompt = json.dumps(entry.value, ensure_ascii=False)
        yield entry.start_mark.index, _end(text, entry), f"{{prompt: {prompt}, thresholds: {new}}}"
        return
    assert isinstance(entry, MappingNode)
    old = _value(entry, "thresholds")
    if isinstance(old, SequenceNode):  # number by number: there may be comments between them
        for node, value in zip(old.value, values, strict=False):
            yield node.start_mark.index, _end(text, node), json.dumps(value)
    elif old is not None:  # nothing, or null
        yield old.start_mark.index, _end(text, old), f" {new}"
    else:
        yield _appended(text, entry, f"thresholds: {new}")


def _appended(text: str, entry: MappingNode, new: str) -> Edit:
    """A last key: after a comma in {...}, else on a new line."""
    end = _end(text, entry.value[-1][1])
    if entry.flow_style:
        return end, end, f", {new}"
    end_of_line = text.find("\n", end)
    end = end_of_line if end_of_line >= 0 else len(text)
    return end, end, f"\n{' ' * entry.start_mark.column}{new}"


def _end(text: str, node: Node) -> int:
    """The end of a value; the parser's end of a block value is the beginning of the next one."""
    while isinstance(node, CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    start, end = int(node.start_mark.index), int(node.end_mark.index)
    return start + len(text[start:end].rstrip())
