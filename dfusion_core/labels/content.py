"""A picture's name: a hash of its pixels, so that an answer is about a picture wherever it lies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LENGTH = 32  # hexadecimal digits: 128 bits


def content_hash(picture: NDArray[np.uint8]) -> str:
    """The name of a picture (row, column, rgb): the same pixels have the same name, whatever file they are in."""
    digest = hashlib.sha256(f"{picture.dtype} {picture.shape}".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()[:LENGTH]


def content_hashes(pictures: Iterable[NDArray[np.uint8]]) -> list[str]:
    """The names of pictures (n, row, column, rgb)."""
    return [content_hash(picture) for picture in pictures]
