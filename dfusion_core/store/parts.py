"""The finished rows of a running stage: one safetensors file per part, complete or absent.

A part is a range of rows. Names that begin with `_` are working columns, which are not published.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadNumber, StoreError
from . import atomic, tensors
from .schema import Array, find_array
from .tensors import AnyArray


class Parts:
    """The parts of `stage`, kept in `folder`."""

    def __init__(self, stage: str, round: str, folder: Path) -> None:
        self.stage, self.round, self.folder = stage, round, folder
        self.ranges: list[range] = []

    @property
    def count(self) -> int:
        """The total number of rows."""
        return self.ranges[-1].stop if self.ranges else 0

    def expect(self, count: int, batch: int) -> None:
        """Fix the partition: [0 .. batch-1], ... ."""
        self.ranges = [range(start, min(start + batch, count)) for start in range(0, count, batch)]

    def clean(self) -> int:
        """Delete parts of another partition and damaged ones, after reading all; returns the number of damaged ones."""
        wanted = {self.path(rows) for rows in self.ranges}
        damaged = 0
        for path in self.folder.glob("*.safetensors"):
            whole = path not in wanted or _is_whole(path)
            damaged += not whole
            if path not in wanted or not whole:
                path.unlink()
        return damaged

    def unfinished(self) -> list[range]:
        """The missing parts, in order."""
        return [rows for rows in self.ranges if not self.path(rows).exists()]

    def path(self, rows: range) -> Path:
        """The file of one part."""
        return self.folder / f"{rows.start:08d}-{rows.stop:08d}.safetensors"

    def write(self, rows: range, values: Mapping[str, Any], describe: Callable[[int], str]) -> None:
        """Store one part. Raises BadNumber for a NaN or infinity, StoreError for what is not in the schema."""
        if rows not in self.ranges:
            raise StoreError(f"{self.stage}: rows {rows.start} to {rows.stop - 1} are not a part of this run.")
        checked = {name: self._checked(name, rows, value, describe) for name, value in values.items()}
        atomic.write_bytes(self.path(rows), tensors.to_bytes(checked))

    def names(self) -> list[str]:
        """The arrays to publish; the same in every part. Raises StoreError if they differ."""
        missing = self.unfinished()
        if missing:
            raise StoreError(
                f"{self.stage}: {len(missing)} of {len(self.ranges)} parts of {self.round} were not written, "
                f"the first is rows {missing[0].start} to {missing[0].stop - 1}.",
                "Run the same command again to continue.",
            )
        found = {self.path(rows): tensors.row_types(self.path(rows)) for rows in self.ranges}
        first = next(iter(found.values()), {})
        for path, header in found.items():
            if header != first:
                raise StoreError(
                    f"{self.stage}: parts of {self.round} differ: {path.name} has {header}, the first has {first}."
                )
        return sorted(name for name in first if not name.startswith("_"))

    def read(self, name: str, rows: range) -> AnyArray:
        """Rows of one array, from all parts that contain them. Raises StoreError for a damaged part."""
        pieces = []
        for part in self.ranges:
            if part.start < rows.stop and rows.start < part.stop:
                values = self._read_part(part, name)
                pieces.append(values[max(rows.start, part.start) - part.start : rows.stop - part.start])
        return np.concatenate(pieces)

    def _read_part(self, part: range, name: str) -> AnyArray:
        try:
            return tensors.read(self.path(part), [name])[0][name]
        except StoreError as error:
            raise StoreError(error.message, "Run the same command again: it makes these rows anew.") from error

    def _checked(self, name: str, rows: range, value: Any, describe: Callable[[int], str]) -> AnyArray:
        values: AnyArray = np.asarray(value)
        if not name.startswith("_"):
            array = find_array(self.stage, name)
            values = _as_declared(self.stage, array, values)
        if values.ndim == 0 or len(values) != len(rows):
            raise StoreError(f"{self.stage}: array '{name}' has shape {values.shape} for {len(rows)} rows.")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            dims = ("row",) if name.startswith("_") else array.dims
            raise _bad_number(self.stage, self.round, name, dims, rows, values, describe)
        return np.ascontiguousarray(values)


def _as_declared(stage: str, array: Array, values: AnyArray) -> AnyArray:
    """`values` in the type of the schema. Raises StoreError if they are of another kind or dimension."""
    if values.ndim != len(array.dims):
        raise StoreError(f"{stage}: array '{array.name}' has shape {values.shape}, its dimensions are {array.dims}.")
    if not np.can_cast(values.dtype, array.dtype, casting="same_kind"):
        raise StoreError(f"{stage}: array '{array.name}' is {values.dtype}, the schema says {array.dtype}.")
    with np.errstate(over="ignore"):  # an overflow becomes an infinity, which is refused with its position
        return values.astype(array.dtype, copy=False)


def _bad_number(
    stage: str,
    round: str,
    name: str,
    dims: tuple[str, ...],
    rows: range,
    values: AnyArray,
    describe: Callable[[int], str],
) -> BadNumber:
    """The error for the first NaN or infinity, with its row and timestep."""
    place = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
    row = rows[place[0]]
    where = [f"{dims[0]} {row}", *filter(None, [describe(row)])]
    where += [
        _at(dim, i, size) for dim, i, size in zip(dims, place, values.shape, strict=False) if dim in ("i", "state")
    ]
    return BadNumber(
        f"{stage}: '{name}' of {round} has a {values[place]} at {', '.join(where)}.",
        "If model.dtype is fp16, try fp32; a learning rate that is too high does this as well.",
    )


def _at(dim: str, index: int, size: int) -> str:
    t = size - index if dim == "i" else size - 1 - index
    return f"{dim} {index} (t = {t})"


def _is_whole(path: Path) -> bool:
    """Whether the checksums of a part are right; after a power failure a file may be incomplete."""
    try:
        tensors.read(path)
    except StoreError:
        return False
    return True
