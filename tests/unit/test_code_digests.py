"""What of a module's text counts as its code."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfusion_core.errors import StoreError
from dfusion_core.store import code
from dfusion_core.store.code import hash_code, hash_module, require_noted

BEFORE = '''"""A module."""
from __future__ import annotations
from typing import TYPE_CHECKING
import math
if TYPE_CHECKING:
    from a import B

class Kind:
    """A class."""

    size: int = 3

def f(x: B, n: int = 2) -> float:
    """A function."""
    # a comment
    if x < 0:
        raise ValueError(f"{x} is below 0", "hint")
    if n > 5:
        problem = StoreError("too many", "fewer")
        raise problem from None
    run.say(f"now {x}")
    print("done", x)
    warnings.warn("careful", stacklevel=2)
    return math.sqrt(x) * n + {"a": 1}["a"]
'''
HARMLESS = [  # what is replaced, and by what
    ("# a comment", "# another one"),
    ("    # a comment\n", ""),
    ("\n\nclass", "\n\n\n\nclass"),
    ('"""A module."""', '"""Another\ndocstring."""'),
    ('    """A function."""\n', ""),
    ('    """A class."""', '    """The kind."""'),
    ("    from a import B", "    from a import B, C"),
    ("x: B, n: int = 2) -> float", "x, n: float = 2) -> int"),
    ('f"{x} is below 0", "hint"', '"below 0"'),
    ('StoreError("too many", "fewer")', 'StoreError("more than 5")'),
    ('run.say(f"now {x}")', 'run.say("at last")'),
    ('print("done", x)', "print()"),
    ('warnings.warn("careful", stacklevel=2)', 'warnings.warn("look out")'),
    ("return math.sqrt(x) * n", "return (math.sqrt(x)\n            * n)"),
    ('{"a": 1}["a"]', "{'a': 1}['a']"),
]
HARMFUL = [
    ("* n", "+ n"),
    ("x < 0", "x <= 0"),
    ("x < 0", "x < 0.0"),
    ("n: int = 2", "n: int = 3"),
    ("(x: B, n: int = 2)", "(n: int = 2, x: B = 0)"),
    ("size: int = 3", "size: int = 4"),
    ("import math", "import cmath as math"),
    ("math.sqrt(x)", "math.exp(x)"),
    ("raise ValueError", "raise KeyError"),
    ("raise problem from None", "pass"),
    ('    print("done", x)\n', ""),
    ('run.say(f"now {x}")', 'run.say(f"now {(x := 3)}")'),
    ('{"a": 1}', '{"a": 1, "b": 2}'),
    ('["a"]', '["b"]'),
    ("return math", "yield math"),
    ("def f(", "@cache\ndef f("),
]


def digest(folder: Path, text: str) -> str:
    """Of a file that is new to the process."""
    file = folder / "module.py"
    file.write_text(text)
    code.read_again()
    return hash_module(file)


@pytest.mark.parametrize(("old", "new"), HARMLESS)
def test_what_changes_no_number_changes_no_digest(tmp_path: Path, old: str, new: str) -> None:
    assert old in BEFORE
    assert digest(tmp_path, BEFORE.replace(old, new)) == digest(tmp_path, BEFORE)


@pytest.mark.parametrize(("old", "new"), HARMFUL)
def test_everything_else_does(tmp_path: Path, old: str, new: str) -> None:
    assert old in BEFORE
    assert digest(tmp_path, BEFORE.replace(old, new)) != digest(tmp_path, BEFORE)


def test_a_digest_is_the_same_in_every_version_of_python(tmp_path: Path) -> None:
    """Written down by Python 3.11; ast.dump gives other texts in 3.12 and 3.13, which add fields."""
    text = 'def f(a, *, b=1.5e-3, **c):\n    return f"{a!r:>{b}} {c}" if a else [*c, None, ..., b"x", 1j, True]\n'
    assert digest(tmp_path, text) == ("f2755ee0ebce5a6174afaf66f4ee814e15f0498d2574d504243b228d58d9d240")


def test_what_brings_inputs_in_and_results_out_is_no_code_of_a_stage() -> None:
    files = hash_code("train")
    assert {"stages/train.py", "dfusion_core/training/losses.py", "dfusion_core/diffusion/ddim.py"} <= files.keys()
    assert not [
        name
        for name in files
        if name.startswith(("dfusion_core/store", "dfusion_core/params", "dfusion_core/runtime", "dfusion_core/errors"))
    ]
    assert hash_code("kv") == hash_code("extract") != {}


@pytest.mark.parametrize("noted", [None, "", "[]", "{}", '{"stages/train.py": "0"}'])
def test_dvc_has_to_have_compared_the_code_that_runs(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, noted: str | None
) -> None:
    require_noted("train")  # without DVC nothing is compared
    monkeypatch.setenv("DVC_STAGE", "train@r00")
    if noted is not None:
        Path("results/code").mkdir(parents=True)
        Path("results/code/train.json").write_text(noted)
    with pytest.raises(StoreError, match="results/code/train.json.*'dvc repro -s code train@r00'"):
        require_noted("train")
