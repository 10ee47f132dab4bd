"""Leaves out what takes long unless ``--everything`` is given, and says at the end what was left out.

Left out are the tests marked ``slow``, and of a test marked ``few(N)`` all cases but N, evenly spread. A file or a test
that is named on the command line runs whole.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

LEFT_OUT = pytest.StashKey[Counter[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--everything", action="store_true", help="run the tests marked slow as well")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    named = any("::" in argument or argument.endswith(".py") for argument in config.args)
    if config.getoption("everything") or config.getoption("markexpr") or named:
        return
    chosen = short(items)
    left_out = [item for item in items if item not in chosen]
    items[:] = [item for item in items if item in chosen]
    config.hook.pytest_deselected(items=left_out)
    root = config.rootpath / "tests"
    config.stash[LEFT_OUT].update(Path(item.path).relative_to(root).parts[0] for item in left_out)


def short(items: list[pytest.Item]) -> set[pytest.Item]:
    """The tests that are not slow; of those of which few are enough, so many cases."""
    chosen, cases = set(), defaultdict(list)
    for item in items:
        if item.get_closest_marker("slow"):
            continue
        few = item.get_closest_marker("few")
        if few is None:
            chosen.add(item)
        else:
            cases[item.nodeid.partition("[")[0], few.args[0]].append(item)
    for (_, count), each in cases.items():
        chosen.update(each[round(k * len(each) / count)] for k in range(min(count, len(each))))
    return chosen


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)  # of a process of pytest-xdist
    if output is not None:
        output["left_out"] = dict(session.config.stash[LEFT_OUT])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    node.config.stash[LEFT_OUT] = Counter(getattr(node, "workeroutput", {}).get("left_out", {}))  # the same in each


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    counts = config.stash[LEFT_OUT]
    if counts:
        where = ", ".join(f"{folder} {count}" for folder, count in sorted(counts.items()))
        terminalreporter.write_line(
            f"{counts.total()} tests were left out ({where}). The whole suite: python -m pytest -n 2 --everything"
        )
