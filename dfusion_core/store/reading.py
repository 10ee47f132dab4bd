"""Published stage outputs, read-only: arrays, tables, files and the manifest."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingStage, StoreError, did_you_mean
from .provenance import MANIFEST, how_to_make, read_manifest
from .publish import ARRAYS
from .verify import check

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    import zarr
    from numpy.typing import NDArray


class StageData:
    """The published output of one stage: Zarr arrays, tables, files and the manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)

    @cached_property
    def arrays(self) -> "zarr.Group":
        """The Zarr group, read-only. Raises StoreError if this stage writes no arrays."""
        import zarr

        if not (self.folder / ARRAYS).is_dir():
            raise StoreError(f"store: {self.folder} holds no arrays.")
        return zarr.open_group(self.folder / ARRAYS, mode="r")

    def array(self, name: str) -> "zarr.Array[Any]":
        """One array, by its name in the schema. Raises StoreError listing the arrays there are."""
        import zarr

        found = self.arrays.get(name)
        if not isinstance(found, zarr.Array):
            names = array_names(self.arrays)
            raise StoreError(
                f"store: {self.folder} has no array '{name}'; it has {', '.join(names)}.",
                did_you_mean(name, names),
            )
        return found

    def rows(self, name: str, which: "Iterable[int]") -> "NDArray[Any]":
        """These rows of an array (len(which), ...), in this order."""
        import numpy as np

        array, wanted = self.array(name), [int(row) for row in which]
        if not wanted:
            return np.empty((0, *array.shape[1:]), array.dtype)
        distinct, place = np.unique(wanted, return_inverse=True)  # each chunk is read once
        return np.asarray(array.oindex[distinct])[place]

    @property
    def names(self) -> list[str]:
        """The arrays of this output; none where the stage wrote none."""
        return array_names(self.arrays) if (self.folder / ARRAYS).is_dir() else []

    @property
    def count(self) -> int:
        """Rows of this output's arrays."""
        return int(self.manifest["rows"])

    def table(self, name: str) -> "pd.DataFrame":
        """One table, with every number as it was written. Raises StoreError listing the tables there are."""
        import pandas as pd

        path = self.folder / f"{name}.csv"
        if not path.is_file():
            names = sorted(file.stem for file in self.folder.glob("*.csv"))
            raise StoreError(
                f"store: {self.folder} has no table '{name}'; it has {', '.join(names) or 'none'}.",
                did_you_mean(name, names),
            )
        return pd.read_csv(path, keep_default_na=False, na_values=[""])

    def path(self, name: str) -> Path:
        """A file of the output. Raises StoreError if it is not in the manifest."""
        if name not in self.manifest["files"]:
            known = self.manifest["files"]
            raise StoreError(f"store: {self.folder} has no file '{name}'.", did_you_mean(name, known))
        return self.folder / name


def read_stage(stage: str, round: str) -> StageData:
    """The published output of `stage` in `round`, with the names and sizes of files that its manifest lists.

    Raises MissingStage naming the command that makes it, StoreError if files are missing or cut short.
    """
    folder = stage_folder(stage, round)
    if not (folder / MANIFEST).is_file():
        raise MissingStage(
            f"store: stage {stage} of {round} is not there: no {folder / MANIFEST}.", how_to_make(folder)
        )
    problems = check(folder, read=False)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise StoreError(f"store: {folder} {problems[0].file} {problems[0].what}{more}.", how_to_make(folder))
    return StageData(folder)


def stage_folder(stage: str, round: str) -> Path:
    """`runs/<round>/<stage>`; init writes what `train` writes in every round: `runs/init/train`."""
    return Path("runs", round, "train" if stage == "init" else stage)


def array_names(group: "zarr.Group", prefix: str = "") -> list[str]:
    """The names of all arrays in a Zarr group and the groups in it, sorted."""
    import zarr

    names = []
    for name, member in sorted(group.members()):
        names += (
            array_names(member, f"{prefix}{name}/") if isinstance(member, zarr.Group) else [f"{prefix}{name}"]
        )
    return names
