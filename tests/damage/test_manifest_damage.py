"""One bit anywhere in a manifest is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from harm import flip, put

from dfusion_core.errors import StoreError
from dfusion_core.store import open_stage
from dfusion_core.store.manifest import MANIFEST, read_manifest, sealed

FILE = Path("runs/r00/sample", MANIFEST)


@pytest.fixture
def whole(workspace: Path) -> bytes:
    with open_stage("sample", round="r00", params={"sample": {"eta": 1.0}}) as run:
        for rows in run.unfinished(2, 2):
            run.write(rows, log_prob=np.zeros((2, 3)))
    return FILE.read_bytes()


def test_every_byte(whole: bytes) -> None:
    for position in range(len(whole)):
        flip(FILE, position, position % 8)
        with pytest.raises(StoreError, match=r"runs/r00/sample/manifest.json .* 'dvc repro -f -s sample@r00'"):
            read_manifest(FILE.parent)
        put(FILE, whole)
    assert read_manifest(FILE.parent) == json.loads(whole)


@pytest.mark.few(1)
@pytest.mark.parametrize("length", [0, 1, 0.5, 0.99])
def test_the_end_is_missing(whole: bytes, length: float) -> None:
    put(FILE, whole[: int(length if length == 1 else length * len(whole))])
    with pytest.raises(StoreError, match="cannot be read: "):
        read_manifest(FILE.parent)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "0" * 64},
        {"digest": "0" * 64},
        {"files": {"images.csv": {}}},
        {"files": []},
        {"files": {"a": 3}},
        {"ingredients": {}},
        {"ingredients": float("nan")},
        {"rows": None},
    ],
)
def test_parts_that_do_not_fit_each_other(whole: bytes, change: dict[str, object]) -> None:
    """Also under a checksum that fits, as a program with an error would write it."""
    manifest = json.loads(whole) | change
    try:
        put(FILE, json.dumps(sealed(manifest)).encode())
    except ValueError:  # NaN has no checksum
        put(FILE, json.dumps(manifest).encode())
    with pytest.raises(StoreError, match="is damaged: its checksum differs"):
        read_manifest(FILE.parent)
