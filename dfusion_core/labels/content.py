"""Names of pictures: a hash of the pixels, so that answers do not depend on paths."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LENGTH = 32  # hexadecimal digits: 128 bits


def content_hash(picture: NDArray[np.uint8]) -> str:
    """The name of a picture (row, column, rgb), from its pixels only."""
    digest = hashlib.sha256(f"{picture.dtype} {picture.shape}".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()[:LENGTH]


def content_hashes(pictures: Iterable[NDArray[np.uint8]]) -> list[str]:
    """The names of pictures (n, row, column, rgb)."""
    return [content_hash(picture) for picture in pictures]
