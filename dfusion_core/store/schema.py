"""Every array of every stage: name, dimensions, type, unit and meaning. This file is the format of a release.

The first dimension is the row: one image, reference or pair. A chunk is one row, a shard up to 64 of them.
Entry i of the dimension `i` belongs to the paper's timestep t = T - i; of `state` to x_{T-i} (T + 1 entries). In kv
only the fused steps are kept: entry k of `fused_step` belongs to t = fuse.first_t - k.
"""

import re
from dataclasses import dataclass

from ..errors import StoreError, did_you_mean

FORMAT_VERSION = 3
OLDEST_VERSION = 3  # that is still read
SHARD_ROWS = 64
SHARD_BYTES = 256 * 2**20  # a shard is built in memory; it has fewer rows if a row is many MB

# Outputs that are written by a stage of another name.
WRITTEN_BY = {"kv": "extract"}

LATENT = ("state", "channel", "height", "width")
PICTURE = ("row", "column", "rgb")


@dataclass(frozen=True)
class Array:
    """One array: `dims` name its axes, rows first; `dtype` is a numpy name."""

    name: str
    dims: tuple[str, ...]
    dtype: str
    unit: str
    about: str


def _picture(row: str) -> Array:
    return Array("picture", (row, *PICTURE), "uint8", "0-255", "the decoded image x_0")


ARRAYS: dict[str, tuple[Array, ...]] = {
    "sample": (
        Array("x", ("image", *LATENT), "float32", "latent", "the trajectory x_T ... x_0"),
        Array(
            "log_prob",
            ("image", "i"),
            "float32",
            "nats per latent element (mean)",
            "log p(x_{t-1} | x_t, c)",
        ),
        Array(
            "cross_map",
            ("image", "i", "item", "map_y", "map_x"),
            "float32",
            "attention probability",
            "A_t^cross of each item; zero where a prompt has fewer items",
        ),
        _picture("image"),
    ),
    "score": (
        Array("embedding", ("image", "feature"), "float32", "1", "the reward model's view of the image, unit length"),
    ),
    "extract": (
        Array("mask", ("reference", "i", "map_y", "map_x"), "bool", "1", "M_t, Eq. 4"),
        Array(
            "item_mask",
            ("reference", "i", "item", "map_y", "map_x"),
            "bool",
            "1",
            "the masks of the single items, before they are merged",
        ),
    ),
    "fuse": (
        Array("x", ("pair", *LATENT), "float32", "latent", "the target's trajectory x_T ... x_0, Eq. 5"),
        _picture("pair"),
    ),
    "evaluate": (_picture("image"),),
}

# K and V of the self-attention modules in ``fuse.layers``; their number depends on the network.
_KV_NAME = re.compile(r"(?P<layer>(down|up)_\d|mid|(block|single)_\d+)[./](?P<block>\d+)/(?P<which>[KV])")
_KV_DIMS = ("reference", "fused_step", "half", "head", "token", "channel")


def find_array(stage: str, name: str) -> Array:
    """The schema's entry of array `name` of `stage`. Raises StoreError with the existing names."""
    kv = _KV_NAME.fullmatch(name)
    if stage == "kv" and kv:
        kind = "keys" if kv["which"] == "K" else "values"
        about = f"{kind} of self-attention {kv['block']} in {kv['layer']}; half 0 is unconditional, 1 conditional"
        return Array(name, _KV_DIMS, "float32", "1", about)
    known = {array.name: array for array in ARRAYS.get(stage, ())}
    if name in known:
        return known[name]
    names = "<layer>.<k>/K and <layer>.<k>/V" if stage == "kv" else ", ".join(known) or "no arrays"
    raise StoreError(f"{stage}: there is no array '{name}'; there is {names}.", did_you_mean(name, known))


def shard_rows(rows: int, row_bytes: int) -> int:
    """Number of rows per shard: at most 64, at most all, and at most 256 MiB."""
    return max(1, min(SHARD_ROWS, rows, SHARD_BYTES // max(1, row_bytes)))
