"""A tree of the arrays, tables and files of a published output."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import StoreError, did_you_mean, one_printable_line
from ...store.manifest import MANIFEST
from ...store.publish import ARRAYS
from ...store.reading import StageData
from ...store.verify import published_folders

if TYPE_CHECKING:
    import zarr
    from rich.tree import Tree

STATISTICS_BYTES = 2**28  # minimum, mean and maximum of larger arrays are taken over their first rows


@dataclass(frozen=True)
class Statistics:
    """Smallest, mean and largest value of the first `rows` rows of an array."""

    minimum: float
    mean: float
    maximum: float
    rows: int


def locate(path: str | Path) -> tuple[Path, str]:
    """The published folder that `path` names, and the array in it, or "" for all.

    `path` is a stage's folder, its arrays.zarr, an array inside, or one of these below `runs/`: `r00/sample`.
    Raises StoreError listing the existing ones.
    """
    for candidate in (Path(path), Path("runs", path)):
        for folder in (candidate, *candidate.parents):
            if (folder / MANIFEST).is_file():
                inside = candidate.relative_to(folder).parts
                return folder, "/".join(inside[1:] if inside[:1] == (ARRAYS,) else inside)
    names = [folder.as_posix() for folder in published()]
    short = [name.removeprefix("runs/") for name in names]
    if not short:
        raise StoreError(
            f"inspect: nothing is published at {path}: {Path('runs').absolute()} holds no output.",
            "Make some with 'dvc repro', or run the command in a project's folder.",
        )
    raise StoreError(
        f"inspect: nothing is published at {path}; there is {', '.join(short)}.",
        did_you_mean(str(path), [*short, *names]) or f"Look at one with 'dfusion inspect {short[0]}'.",
    )


def published() -> list[Path]:
    """Every published folder below `runs/`."""
    return published_folders(Path("runs")) if any(Path("runs").rglob(MANIFEST)) else []


def tree(path: str | Path) -> "Tree":
    """The content of `path` (see `locate`): arrays with dimensions, type, unit, values; tables; files."""
    from rich.markup import escape
    from rich.tree import Tree

    folder, wanted = locate(path)
    data = StageData(folder)
    name = escape(one_printable_line(str(folder)))
    root = Tree(f"[bold]{name}[/]  {data.manifest['rows']} rows, {data.manifest['fingerprint'][:16]}")
    for name in [wanted] if wanted else data.names:
        root.add(escape(one_printable_line(describe(data, name))))
    if not wanted:
        for line in _other_files(data):
            root.add(escape(one_printable_line(line)))
    return root


def describe(data: StageData, name: str) -> str:
    """One line about an array: name, dimensions with sizes, type, unit, MiB, and its values' range."""
    array = data.array(name)
    dims = ", ".join(f"{dim} {size}" for dim, size in zip(dimensions(array), array.shape, strict=True))
    unit = array.attrs.get("unit", "no unit")
    values = ""
    with data.reading(name):
        found = statistics(array)
    if found:
        part = "" if found.rows == array.shape[0] else f" of the first {found.rows} rows"
        values = f"  min {found.minimum:.4g}  mean {found.mean:.4g}  max {found.maximum:.4g}{part}"
    return f"{name} ({dims})  {array.dtype}  [{unit}]  {array.nbytes / 2**20:.2f} MiB{values}"


def dimensions(array: "zarr.Array[Any]") -> tuple[str, ...]:
    """The names of the axes, or their numbers without names."""
    names = getattr(array.metadata, "dimension_names", None) or [None] * array.ndim
    return tuple(name or str(axis) for axis, name in enumerate(names))


def statistics(array: "zarr.Array[Any]") -> Statistics | None:
    """Range and mean of the values; None without rows. Reads 256 MiB at most, shard by shard."""
    import numpy as np

    count = array.shape[0]
    if not array.size:
        return None
    rows = max(1, min(count, STATISTICS_BYTES * count // array.nbytes))
    each = (array.shards or array.chunks)[0]
    pieces = [np.asarray(array[start : min(start + each, rows)]) for start in range(0, rows, each)]
    total = sum(float(piece.sum(dtype=np.float64)) for piece in pieces)
    return Statistics(
        min(float(piece.min()) for piece in pieces),
        total / sum(piece.size for piece in pieces),
        max(float(piece.max()) for piece in pieces),
        rows,
    )


def _other_files(data: StageData) -> Iterator[str]:
    for name, entry in data.manifest["files"].items():
        if name.endswith(".csv"):
            frame = data.table(name.removesuffix(".csv"))
            yield f"{name}  {len(frame)} rows: {', '.join(map(str, frame.columns))}"
        elif not name.startswith(f"{ARRAYS}/"):
            yield f"{name}  {entry['size'] / 2**20:.2f} MiB"
