"""Published stage outputs, read-only: arrays, tables, files and the manifest.

Names and sizes of all files are compared with the manifest when an output is opened, and the content of each table and
file when it is read. Arrays have a crc32c in every chunk. A stage has verified its inputs completely before
(`inputs.py`).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingStage, StoreError, did_you_mean, one_line
from .hints import how_to_make, how_to_remake
from .manifest import MANIFEST, PRUNED, read_manifest
from .paths import output
from .publish import ARRAYS
from .schema import Array, find_array, shard_rows
from .tables import read_table
from .verify import Problem, check, damaged, difference

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    import torch
    import zarr
    from numpy.typing import NDArray


# The digests of the inputs with which the running stage began.
BEGUN_WITH: dict[Path, str] = {}


class StageData:
    """The published output of one stage: Zarr arrays, tables, files and the manifest."""

    def __init__(self, folder: Path) -> None:
        """Open the output in `folder`. Raises StoreError if files are missing, truncated or additional."""
        problems = check(folder, read=False)
        if problems:
            raise damaged(problems)
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._opened = self._state()

    @cached_property
    def arrays(self) -> "zarr.Group":
        """The Zarr group, read-only. Raises StoreError if this stage writes no arrays."""
        import zarr

        if not (self.folder / ARRAYS).is_dir():
            raise StoreError(f"store: {self.folder} holds no arrays.")
        for name in self.manifest["files"]:
            if name.startswith(f"{ARRAYS}/") and name.endswith("/zarr.json"):
                self._require_whole(name)
        with self.reading("", "metadata"):
            return zarr.open_group(self.folder / ARRAYS, mode="r", zarr_format=3)  # format 2 has pickled objects

    def array(self, name: str) -> "zarr.Array[Any]":
        """One array, by its name in the schema. Raises StoreError listing the existing arrays."""
        import zarr

        arrays = self.arrays
        with self.reading(name, "metadata"):
            found = arrays.get(name)
        if not isinstance(found, zarr.Array):
            names = self.names
            if any(file.startswith(f"{ARRAYS}/{name}/") for file in self.manifest.get(PRUNED, {})):
                raise StoreError(f"store: the array '{name}' of {self.folder} was pruned.", how_to_remake(self.folder))
            raise StoreError(
                f"store: {self.folder} has no array '{name}'; it has {', '.join(names)}.",
                did_you_mean(name, names),
            )
        declared = find_array(self.manifest["ingredients"]["stage"], name)
        with self.reading(name, "metadata"):
            self._require_declared(declared, found)
        return found

    def rows(self, name: str, which: "Iterable[int]") -> "NDArray[Any]":
        """These rows of an array (len(which), ...), in this order."""
        import numpy as np

        array, wanted = self.array(name), [int(row) for row in which]
        if not wanted:
            return np.empty((0, *array.shape[1:]), array.dtype)
        distinct, place = np.unique(wanted, return_inverse=True)  # each chunk is read once
        if not 0 <= distinct[0] <= distinct[-1] < array.shape[0]:
            raise StoreError(
                f"store: {self.folder} has {array.shape[0]} rows of '{name}', not {distinct[0]} to {distinct[-1]}.",
                "The tables and arrays of this round do not fit each other: 'dfusion verify runs' looks for damage.",
            )
        with self.reading(name):
            found = np.asarray(array.oindex[distinct])
        self._require_same()
        if found.dtype.kind == "f" and not (finite := np.isfinite(found)).all():
            row = int(distinct[np.argwhere(~finite)[0][0]])
            what = f"has a NaN or an infinity in row {row}: nothing that this program stores has one"
            raise damaged([Problem(self.folder, f"{ARRAYS}/{name}", what)])
        return found[place]

    def tensor(self, name: str, which: "Iterable[int]") -> "torch.Tensor":
        """`rows` as a tensor."""
        import torch

        return torch.from_numpy(self.rows(name, which))

    @contextmanager
    def reading(self, name: str, what: str = "a chunk") -> Iterator[None]:
        """Convert Zarr's exceptions for damaged chunks or metadata of array `name` to StoreError."""
        try:
            yield
        except Exception as error:  # of any kind, because metadata may be anything
            file, why = f"{ARRAYS}/{name}: {what}", one_line(error) or type(error).__name__
            raise damaged([Problem(self.folder, file, f"cannot be read: {why}")]) from error

    @property
    def names(self) -> list[str]:
        """The names of the arrays of this output."""
        if not (self.folder / ARRAYS).is_dir():
            return []
        arrays = self.arrays
        with self.reading("", "metadata"):
            return array_names(arrays)

    @property
    def count(self) -> int:
        """Rows of this output's arrays."""
        return int(self.manifest["rows"])

    def table(self, name: str) -> "pd.DataFrame":
        """One table, as `tables.read_table` checks it. Raises StoreError listing the existing tables."""
        path = self.folder / f"{name}.csv"
        if not path.is_file():
            names = sorted(file.stem for file in self.folder.glob("*.csv"))
            raise StoreError(
                f"store: {self.folder} has no table '{name}'; it has {', '.join(names) or 'none'}.",
                did_you_mean(name, names),
            )
        self._require_whole(path.name)
        return read_table(path)

    def path(self, name: str) -> Path:
        """A file of the output. Raises StoreError if it is not in the manifest, or is damaged."""
        if name not in self.manifest["files"]:
            known = self.manifest["files"]
            raise StoreError(f"store: {self.folder} has no file '{name}'.", did_you_mean(name, known))
        self._require_whole(name)
        return self.folder / name

    def _require_declared(self, declared: Array, array: "zarr.Array[Any]") -> None:
        """Raise ValueError unless the array is as in the schema, with the chunks of `publish.assemble`.

        Arrays are not compressed, so one larger than its files would contain values that were not written.
        """
        files, inside = self.manifest["files"], f"{ARRAYS}/{declared.name}/"
        stored = sum(entry["size"] for file, entry in files.items() if file.startswith(inside))
        if array.dtype != declared.dtype or array.ndim != len(declared.dims) or array.shape[0] != self.count:
            raise ValueError(
                f"it is {array.dtype} {array.shape}; the schema says {declared.dtype} {declared.dims}, "
                f"the manifest {self.count} rows"
            )
        if array.attrs.get("unit") != declared.unit:
            raise ValueError(f"its unit is not {declared.unit}")
        row = array.shape[1:]
        shard = shard_rows(self.count, math.prod(row) * array.dtype.itemsize)
        if array.nbytes > stored or array.chunks != (1, *row) or array.shards != (shard, *row):
            raise ValueError(
                f"chunks of {array.chunks} and shards of {array.shards} do not fit {array.shape} and "
                f"{stored} bytes of files"
            )

    def _state(self) -> tuple[int, int]:
        """Identity of the folder and its manifest."""
        return self.folder.stat().st_ino, (self.folder / MANIFEST).stat().st_ino

    def _require_same(self) -> None:
        """Raise StoreError if the opened output has been replaced."""
        try:
            same = self._state() == self._opened
        except OSError:
            same = False
        if not same:
            raise StoreError(f"store: {self.folder} was replaced while it was read.", "Run the same command again.")

    def _require_whole(self, name: str) -> None:
        self._require_same()
        what = difference(self.folder / name, self.manifest["files"][name])
        if what:
            raise damaged([Problem(self.folder, name, what)])


def read_stage(stage: str, round: str) -> StageData:
    """The published output of `stage` in `round`.

    Raises MissingStage naming the command that makes it; StoreError if files are missing or truncated, or if it is not
    the output with which the running stage began.
    """
    folder = output(stage, round)
    if not (folder / MANIFEST).is_file():
        raise MissingStage(
            f"store: stage {stage} of {round} is not there: no {folder / MANIFEST}.", how_to_make(folder)
        )
    found = StageData(folder)
    if BEGUN_WITH.get(folder.absolute(), found.manifest["digest"]) != found.manifest["digest"]:
        raise StoreError(f"store: {folder} was replaced while it was in use.", "Run the same command again.")
    return found


def array_names(group: "zarr.Group", prefix: str = "") -> list[str]:
    """The names of all arrays in a Zarr group and the groups in it, sorted."""
    import zarr

    names = []
    for name, member in sorted(group.members()):
        names += array_names(member, f"{prefix}{name}/") if isinstance(member, zarr.Group) else [f"{prefix}{name}"]
    return names
