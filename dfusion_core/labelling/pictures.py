"""The pictures of a session by their hashes, read from published outputs on request."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..rewards.human import picture_hashes
from ..store.reading import StageData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Pictures:
    """Locations of pictures, an output and a row, by hash. Pictures cannot be addressed by paths."""

    def __init__(self) -> None:
        self._where: dict[str, tuple[StageData, int]] = {}
        self._lock = threading.Lock()

    def add(self, stage: StageData, rows: Iterable[int]) -> list[str]:
        """Add rows of an output's pictures; returns their hashes, in this order."""
        wanted = [int(row) for row in rows]
        hashes = picture_hashes(stage, wanted)
        self._where |= zip(hashes, ((stage, row) for row in wanted), strict=True)
        return hashes

    def pixels(self, name: str) -> NDArray[np.uint8] | None:
        """A picture (row, column, rgb) by its hash; None for an unknown one."""
        if name not in self._where:
            return None
        stage, row = self._where[name]
        with self._lock:
            found: NDArray[np.uint8] = stage.rows("picture", [row])[0]
        return found

    def png(self, name: str) -> bytes | None:
        """A picture as a PNG file, by its hash."""
        pixels = self.pixels(name)
        return None if pixels is None else png(pixels)

    def source(self, name: str) -> tuple[Path, int]:
        """The folder and the row of a picture."""
        stage, row = self._where[name]
        return stage.folder, row


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A picture as a PNG file without metadata, which could reveal a name or a round."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
