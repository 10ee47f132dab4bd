"""YAML by the safe loader, with three surprises taken out.

A key that occurs twice is an error naming both lines (PyYAML silently keeps the last one); `1e-4` is a number
(PyYAML reads a string, DVC's own reader a number); `on`, `yes` and `no` are words, as in YAML 1.2.
"""

import re
from pathlib import Path
from typing import Any

import yaml

# What YAML 1.2 reads as a number or a truth value, with the characters that such a text can begin with.
_SCALARS = (
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)", "-+.0123456789"),
    ("float", r"\.(nan|NaN|NAN)", "."),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
)


class StrictLoader(yaml.SafeLoader):
    """`yaml.SafeLoader` that refuses repeated keys and reads scalars as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                problem = f"the key '{key.value}' occurs twice, first in line {seen[key.value]}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen[key.value] = line
        return super().construct_mapping(node, deep)


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """PyYAML's table without its YAML 1.1 booleans, numbers and dates, and with those of YAML 1.2."""
    dropped = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "timestamp")}
    table = {
        first: [(tag, pattern) for tag, pattern in pairs if tag not in dropped]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for kind, pattern, firsts in _SCALARS:
        for first in firsts:
            table.setdefault(first, []).append((f"tag:yaml.org,2002:{kind}", re.compile(rf"^(?:{pattern})$")))
    return table


StrictLoader.yaml_implicit_resolvers = _resolvers()


def read_yaml(path: Path) -> Any:
    """The content of the YAML file at `path`.

    Raises ValueError with the line in its message if it is not YAML, and OSError if it cannot be read.
    """
    try:
        return StrictLoader(path.read_text(encoding="utf-8")).get_single_data()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{where}{error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
