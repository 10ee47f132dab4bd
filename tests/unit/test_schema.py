"""The schema: names, the rule for K and V, sizes of shards."""

import numpy as np
import pytest

from dfusion_core.errors import StoreError
from dfusion_core.store.schema import ARRAYS, find_array, shard_rows


def test_every_array_is_complete_and_no_array_is_named_as_its_own_dimension() -> None:
    for arrays in ARRAYS.values():
        for array in arrays:
            assert np.dtype(array.dtype).name == array.dtype
            assert array.unit
            assert array.about
            assert len(set(array.dims)) == len(array.dims)
            assert array.name not in array.dims  # xarray would make it a coordinate


@pytest.mark.parametrize("name", ["up_1.0/K", "mid.0/V", "up_3/2/K", "down_0.1/V"])
def test_keys_and_values_follow_a_rule(name: str) -> None:
    assert find_array("kv", name).dims == ("reference", "fused_step", "half", "head", "token", "channel")


@pytest.mark.parametrize(("stage", "name"), [("kv", "up_1.0/Q"), ("kv", "left_1.0/K"), ("sample", "up_1.0/K")])
def test_other_names_are_refused(stage: str, name: str) -> None:
    with pytest.raises(StoreError, match="there is no array"):
        find_array(stage, name)


def test_a_near_miss_gets_a_suggestion() -> None:
    with pytest.raises(StoreError, match="Did you mean 'log_prob'"):
        find_array("sample", "logprob")


def test_shards_hold_at_most_64_rows_and_256_mib() -> None:
    assert shard_rows(640, 1000) == 64
    assert shard_rows(10, 1000) == 10
    assert shard_rows(640, 100 * 2**20) == 2
    assert shard_rows(640, 2**30) == 1
