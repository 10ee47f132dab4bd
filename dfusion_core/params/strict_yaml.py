"""YAML files of the user, read as DVC reads params.yaml: by ruamel.yaml, which follows YAML 1.2 (`010` is 10).

Refused, with the line: duplicate keys, tags, unquoted dates, control characters in a text
("\\e[2J" would reach a terminal), and aliases by which a short file expands to millions of values, or to itself.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ..errors import short

TAG = "tag:yaml.org,2002:"
PLAIN = tuple(f"{TAG}{kind}" for kind in ("str", "int", "float", "bool", "null", "merge"))
MAPPING, SEQUENCE, DATE = f"{TAG}map", f"{TAG}seq", f"{TAG}timestamp"
MOST_VALUES, DEEPEST = 100_000, 50  # with every alias written out
COMMENT = re.compile(r"(?:[ \t]{2,}|\t)#([ \t].*)?")  # the form of a comment: two spaces before #, one after it
PAIR = re.compile(r"\\u[dD][89abAB]")  # half of a surrogate pair, as in JSON


class CutText(str):
    """An unquoted text followed by a comment that may be part of the text; ``rest`` is the comment."""

    rest: str


def read_yaml(path: Path) -> Any:
    """The content of the YAML file at `path`.

    Raises ValueError with the line in its message if it is not YAML, and OSError if it cannot be read.
    """
    if path.exists() and not path.is_file():  # reading a device might not end
        raise OSError("is no file")
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text ({error.reason} at byte {error.start})") from error


def parse_yaml(text: str) -> Any:
    """The content of a YAML text; texts that a comment may have cut are CutText. Raises ValueError with the line."""
    root = compose_yaml(text)
    return None if root is None else _checked(lambda: YAML(typ="safe").constructor.construct_document(root), text)


def compose_yaml(text: str) -> Node | None:
    """The nodes of a YAML text, with their positions. Raises ValueError with the line."""

    def composed() -> Node | None:
        root: Node | None = YAML(typ="safe").compose(text)
        if root is not None:
            _check_tree(root)
            _mark_cut(root, text)
        return root

    found: Node | None = _checked(composed, text)
    return found


def dump_yaml(data: Any) -> str:
    """Plain values as YAML in block style, keys in their order."""
    yaml: Any = YAML(typ="safe", pure=True)
    out = StringIO()
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False
    yaml.width = 120
    yaml.dump(data, out)
    return out.getvalue()


def _checked(read: Any, text: str) -> Any:
    """The result of `read`; errors of the library become ValueErrors of one line."""
    try:
        return read()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        problem = " ".join(str(error.problem or error.context).split())
        begin = error.context_mark if error.context_mark and error.problem_mark else None
        problem += f" ({error.context} that begins in line {begin.line + 1})" if begin else ""
        if mark and PAIR.search("\n".join(text.splitlines()[mark.line : mark.line + 1])):
            problem = r"\ud83d and its like are halves of a character: write the character itself"
        raise ValueError(f"{where}{problem}") from error
    except YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("values are nested too deeply") from error


def _refused(problem: str, node: Node) -> MarkedYAMLError:
    return MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _check_tree(root: Node) -> None:
    """Raise MarkedYAMLError for refused keys, tags, characters and aliases.

    Nodes are counted with the repetitions by aliases, without expanding these.
    """
    sizes: dict[int, int] = {}  # of finished nodes; 0 while their content is being counted

    def size(node: Node, depth: int) -> int:
        if id(node) in sizes:
            if not sizes[id(node)]:
                raise _refused("it contains itself by an alias", node)
            return sizes[id(node)]
        sizes[id(node)] = 0
        _check_node(node)
        sizes[id(node)] = found = 1 + sum(size(inner, depth + 1) for inner in inside(node))
        if found > MOST_VALUES or depth > DEEPEST:
            raise _refused(f"more than {MOST_VALUES} values, aliases written out, or {DEEPEST} levels", node)
        return found

    size(root, 0)


def _check_node(node: Node) -> None:
    if isinstance(node, MappingNode):
        _check_keys(node)
    if not isinstance(node, ScalarNode):
        if _tag(node) != (MAPPING if isinstance(node, MappingNode) else SEQUENCE):
            raise _refused(f"the tag {_tag(node)} is not allowed here", node)
        return
    bad = next((c for c in node.value if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"), "")
    if bad:
        raise _refused(f"the control character {bad!r} is not allowed in a text", node)
    if _tag(node) == DATE:
        raise _refused(f"'{short(node.value)}' is a date to YAML: put it in quotes", node)
    read_as = _resolver().resolve(ScalarNode, node.value, (True, False)) if _tag(node) in PLAIN else None
    if _tag(node) not in (f"{TAG}str", str(read_as)):
        raise _refused(
            f"the tag {_tag(node)} is not allowed here"
            if read_as is None
            else f"'{short(node.value)}' is no {_tag(node).removeprefix(TAG)}",
            node,
        )


@cache
def _resolver() -> Any:
    return YAML(typ="safe").resolver


def _check_keys(node: MappingNode) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, ScalarNode):
            raise _refused("a key must be a text", key)
        if key.value in seen:
            raise _refused(f"the key '{short(key.value)}' occurs twice, first in line {seen[key.value]}", key)
        seen[key.value] = key.start_mark.line + 1


def _tag(node: Node) -> str:
    return str(node.tag)


def _mark_cut(root: Node, text: str) -> None:
    """Replace texts that a comment may have cut by CutText; each node is visited once."""
    left, seen = [root], set()
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        left += inside(node)
        if isinstance(node, ScalarNode) and not node.style and node.tag == f"{TAG}str":
            end = text.find("\n", node.end_mark.index)
            rest = text[node.end_mark.index : end if end >= 0 else len(text)].rstrip()
            if rest.lstrip(" \t").startswith("#") and rest[:1] in (" ", "\t") and not COMMENT.fullmatch(rest):
                node.value = CutText(node.value)
                node.value.rest = rest.strip()


def inside(node: Node) -> list[Node]:
    """The nodes directly below one."""
    if isinstance(node, MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []
