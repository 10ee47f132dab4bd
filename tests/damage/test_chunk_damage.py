"""Inside a shard: chunks that change places or vanish keep every crc32c, and Zarr alone would read them."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from harm import flip, put, swap

from dfusion_core.errors import StoreError
from dfusion_core.store import open_stage, read_stage, verify

ROWS, T = 6, 3
ABSENT = 2**64 - 1


@pytest.fixture
def shards(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A published array whose row r is full of r + 1, in three shards of two chunks."""
    monkeypatch.setattr("dfusion_core.store.schema.SHARD_ROWS", 2)
    with open_stage("sample", round="r00") as run:
        for rows in run.unfinished(ROWS, 4):
            run.write(rows, log_prob=np.repeat(np.arange(rows.start, rows.stop)[:, None] + 1, T, axis=1))
    return [Path(f"runs/r00/sample/arrays.zarr/log_prob/c/{n}/0") for n in range(3)]


def index(shard: Path) -> list[tuple[int, int]]:
    """(offset, bytes) of each chunk: the shard ends with them and a crc32c."""
    return list(struct.iter_unpack("<QQ", shard.read_bytes()[-36:-4]))


def zarr_alone() -> list[float]:
    return zarr.open_group("runs/r00/sample/arrays.zarr", mode="r")["log_prob"][:, 0].tolist()


def both_refuse(file: str) -> None:
    assert [problem.file for problem in verify("runs")][:1] == [f"arrays.zarr/log_prob/{file}"]
    with pytest.raises(StoreError, match=f"runs/r00/sample/arrays.zarr/log_prob/{file} checksum differs"):
        open_stage("score", round="r00", inputs={"sample": Path("runs/r00/sample")})


def test_two_chunks_of_a_shard_change_places(shards: list[Path]) -> None:
    (first, size), (second, _) = index(shards[1])
    data = shards[1].read_bytes()
    one, other = data[first : first + size], data[second : second + size]
    assert first + size == second
    put(shards[1], data[:first] + other + one + data[second + size :])
    assert zarr_alone() == [1, 2, 4, 3, 5, 6]
    both_refuse("c/1/0")


def test_two_shards_change_places(shards: list[Path]) -> None:
    swap(shards[0], shards[2])
    assert zarr_alone() == [5, 6, 3, 4, 1, 2]
    both_refuse("c/0/0")


def test_a_chunk_that_is_gone_is_not_read_as_zeros(shards: list[Path]) -> None:
    data = shards[1].read_bytes()
    entries = struct.pack("<QQQQ", *index(shards[1])[0], ABSENT, ABSENT)
    put(shards[1], data[:-36] + entries + struct.pack("<I", google_crc32c.value(entries)))
    assert zarr_alone() == [1, 2, 3, 0, 5, 6]
    both_refuse("c/1/0")


def test_a_shard_that_is_gone_is_not_read_as_zeros(shards: list[Path]) -> None:
    shards[1].unlink()
    assert zarr_alone() == [1, 2, 0, 0, 5, 6]
    with pytest.raises(StoreError, match="c/1/0 is missing"):
        read_stage("sample", "r00")


def test_every_bit_of_a_shard_is_covered_after_the_check_too(shards: list[Path]) -> None:
    """What is damaged between the check of an input and its use is found by the crc32c of chunks and indices."""
    data, dice = read_stage("sample", "r00"), random.Random(0)
    whole = shards[1].read_bytes()
    for position in range(len(whole)):
        flip(shards[1], position, dice.randrange(8))
        with pytest.raises(StoreError, match="arrays.zarr/log_prob: a chunk cannot be read: .*dvc repro -f"):
            data.rows("log_prob", [2, 3])
        put(shards[1], whole)
    assert data.rows("log_prob", [2, 3])[:, 0].tolist() == [3, 4]
