"""Shipped parameter files are in the style in which DVC writes them back: `-S` changes the line of its key only."""

from __future__ import annotations

from pathlib import Path

import pytest
from dvc.utils.serialize import modify_yaml

from dfusion_core.commands.profile import FOLDER, PROFILES, fill
from dfusion_core.params import load_everything

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "params.yaml", *(FOLDER / f"{name}.yaml" for name in PROFILES)]


def after_dvc(file: Path, *keys: str, value: object) -> list[str]:
    """The lines of a file in which DVC has set one key, as `dvc exp run -S` does."""
    with modify_yaml(file) as data:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value
    return file.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
@pytest.mark.parametrize(
    ("keys", "value"),
    [(("algo",), "ddpo"), (("pairs",), "naive"), (("adopt", "threshold"), 0.5), (("train", "first_t"), 4)],
)
def test_one_line_changes(file: Path, keys: tuple[str, ...], value: object, tmp_path: Path) -> None:
    copy = tmp_path / "params.yaml"
    copy.write_bytes(file.read_bytes())
    before, after = copy.read_text().splitlines(), after_dvc(copy, *keys, value=value)
    assert len(before) == len(after)
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 1 and changed[0][0].strip().startswith(f"{keys[-1]}:")
    assert str(value) in changed[0][1] and "#" in changed[0][1] or "#" not in changed[0][0]


@pytest.mark.parametrize(
    "model",
    ["owner/name", "models/sd 2.1 'base'", "C:\\x", "true", "# no", 'a "b"', "ü/é", "1e4", "a # b", "x " * 100 + "y"],
)
def test_what_profile_fills_in_is_in_that_style_too(model: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(fill("sd21", model).text)
    before = file.read_text().splitlines()
    if len(model) < 100:  # DVC folds a line of more than 80 characters that has spaces
        assert sum(old != new for old, new in zip(before, after_dvc(file, "seed", value=7), strict=True)) == 1
    assert load_everything(file).model.id == model
