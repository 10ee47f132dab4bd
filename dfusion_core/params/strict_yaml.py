"""YAML by the safe loader, with its surprises taken out.

A key that occurs twice is an error naming both lines (PyYAML silently keeps the last one); `1e-4` is a number
(PyYAML reads a string, DVC's own reader a number); `on`, `yes` and `no` are words, as in YAML 1.2. Refused as well,
with the line: tags that make anything but plain values, control characters in a text ("\\e[2J" would reach a terminal),
and aliases by which a short file stands for millions of values, or for itself.
"""

import re
import unicodedata
from pathlib import Path
from typing import Any

import yaml

from ..errors import short

# What YAML 1.2 reads as a number or a truth value, with the characters that such a text can begin with.
_SCALARS = (
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)", "-+.0123456789"),
    ("float", r"\.(nan|NaN|NAN)", "."),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
)
TAG = "tag:yaml.org,2002:"
STRING, MAPPING, SEQUENCE = (f"{TAG}{kind}" for kind in ("str", "map", "seq"))
MOST_VALUES, DEEPEST = 100_000, 50  # with every alias written out


class StrictLoader(yaml.SafeLoader):
    """`yaml.SafeLoader` that refuses repeated keys, odd tags and oversized content, and reads scalars as YAML 1.2."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _check_tree(node, self)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise _refused("a key must be a text", key)
            if key.value in seen:
                raise _refused(f"the key '{short(key.value)}' occurs twice, first in line {seen[key.value]}", key)
            seen[key.value] = line
        return super().construct_mapping(node, deep)


def _refused(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _check_tree(root: yaml.Node, loader: StrictLoader) -> None:
    """Raise MarkedYAMLError for a tag, a character or an alias that no file of this program needs.

    Nodes are counted as often as aliases repeat them, without repeating them.
    """
    sizes: dict[int, int] = {}  # of finished nodes; 0 while their inside is being counted

    def size(node: yaml.Node, depth: int) -> int:
        if id(node) in sizes:
            if not sizes[id(node)]:
                raise _refused("it contains itself by an alias", node)
            return sizes[id(node)]
        sizes[id(node)] = 0
        _check_node(node, loader)
        sizes[id(node)] = found = 1 + sum(size(inner, depth + 1) for inner in _inside(node))
        if found > MOST_VALUES or depth > DEEPEST:
            raise _refused(f"more than {MOST_VALUES} values, aliases written out, or {DEEPEST} levels", node)
        return found

    size(root, 0)


def _check_node(node: yaml.Node, loader: StrictLoader) -> None:
    if not isinstance(node, yaml.ScalarNode):
        if node.tag != (MAPPING if isinstance(node, yaml.MappingNode) else SEQUENCE):
            raise _refused(f"the tag {node.tag} is not allowed here", node)
        return
    bad = next((c for c in node.value if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"), "")
    if bad:
        raise _refused(f"the control character {bad!r} is not allowed in a text", node)
    read_as: str = loader.resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]
    if node.tag not in (STRING, read_as):
        raise _refused(f"'{short(node.value)}' is no {node.tag.removeprefix(TAG)}", node)


def _inside(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """PyYAML's table without its YAML 1.1 booleans, numbers, dates and "=", and with those of YAML 1.2."""
    dropped = {f"{TAG}{kind}" for kind in ("bool", "int", "float", "timestamp", "value")}
    table = {
        first: [(tag, pattern) for tag, pattern in pairs if tag not in dropped]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for kind, pattern, firsts in _SCALARS:
        for first in firsts:
            table.setdefault(first, []).append((f"{TAG}{kind}", re.compile(rf"^(?:{pattern})$")))
    return table


StrictLoader.yaml_implicit_resolvers = _resolvers()


def read_yaml(path: Path) -> Any:
    """The content of the YAML file at `path`.

    Raises ValueError with the line in its message if it is not YAML, and OSError if it cannot be read.
    """
    if path.exists() and not path.is_file():  # a device would be read for ever
        raise OSError("is no file")
    try:
        return StrictLoader(path.read_text(encoding="utf-8")).get_single_data()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{where}{error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("values are nested too deeply") from error
