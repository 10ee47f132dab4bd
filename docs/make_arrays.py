"""Write the table of arrays in docs/store.md from the schema: python docs/make_arrays.py"""

from __future__ import annotations

from pathlib import Path

from dfusion_core.store.schema import ARRAYS, Array, find_array

PAGE = Path(__file__).parent / "store.md"
BEGIN = "<!-- begin of the table that `python docs/make_arrays.py` writes -->\n"
END = "<!-- end of the table -->\n"
HEAD = "| stage | array | dimensions | type | unit | what |\n|---|---|---|---|---|---|\n"


def row(stage: str, name: str, array: Array) -> str:
    """One line of the table."""
    about = array.about.replace("|", "\\|")
    return f"| `{stage}` | `{name}` | {', '.join(array.dims)} | {array.dtype} | {array.unit} | {about} |\n"


def table() -> str:
    """All arrays, stage by stage."""
    lines = [row(stage, array.name, array) for stage, arrays in ARRAYS.items() for array in arrays]
    for which in "KV":
        array = find_array("kv", f"mid.0/{which}")
        lines.append(row("kv", f"LAYER.k/{which}", array).replace(" 0 in mid", " k in LAYER"))
    return HEAD + "".join(lines)


def page() -> str:
    """The page with its table replaced."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
