"""Named arrays in one safetensors file with checksums, which the format itself does not have."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import StoreError, one_line

AnyArray = NDArray[Any]


def to_bytes(arrays: Mapping[str, AnyArray], meta: Mapping[str, Any] | None = None) -> bytes:
    """The file's content: the arrays, the JSON values `meta`, and sha256s of each array and of the header."""
    from safetensors.numpy import save

    sums = {name: _checksum(value) for name, value in arrays.items()}
    about = json.dumps({"arrays": sums, "meta": dict(meta or {})}, sort_keys=True)
    return save(dict(arrays), {"about": about, "sha256": hashlib.sha256(about.encode()).hexdigest()})


def read(file: Path, names: Iterable[str] | None = None) -> tuple[dict[str, AnyArray], dict[str, Any]]:
    """These arrays (all by default) and `meta`. Raises StoreError if a checksum is wrong."""
    with _opened(file) as (data, about):
        wanted = list(about["arrays"] if names is None else names)
        arrays = {name: data.get_tensor(name) for name in wanted}
        if any(_checksum(arrays[name]) != about["arrays"][name] for name in wanted):
            raise ValueError("checksum differs")
        return arrays, dict(about["meta"])


def row_types(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape without the first axis of every array. Raises StoreError for a damaged file."""
    with _opened(file) as (data, about):
        slices = {name: data.get_slice(name) for name in about["arrays"]}
        return {name: (str(view.get_dtype()), tuple(view.get_shape()[1:])) for name, view in slices.items()}


@contextmanager
def _opened(file: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The open file and its header."""
    from safetensors import safe_open

    try:
        with safe_open(file, framework="numpy") as data:
            said = data.metadata()
            if hashlib.sha256(said["about"].encode()).hexdigest() != said["sha256"]:
                raise ValueError("checksum differs")
            yield data, json.loads(said["about"])
    except Exception as error:  # damaged files make safetensors and numpy raise any kind of exception
        raise StoreError(f"store: {file} is damaged: {one_line(error)}.") from error


def _checksum(array: AnyArray) -> str:
    """sha256 of type, shape and bytes."""
    digest = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
