"""What `dfusion plan` says before a run is what the run then does: rows of the U-Net, pictures, bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from steps import change, run

from dfusion_core.commands.plan.costs import count_costs
from dfusion_core.commands.plan.disk import count_disk
from dfusion_core.commands.plan.workload import workload
from dfusion_core.params import load_everything
from dfusion_core.store.paths import ROUND_STAGES


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Rows of every U-Net call, pictures of every decoding and of every scoring, while the context lasts."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from open_clip.transformer import VisionTransformer

    found = {"rows": 0, "trained_rows": 0, "decoded": 0, "scored": 0}

    def see(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, UNet2DConditionModel):
            found["trained_rows" if torch.is_grad_enabled() else "rows"] += len(args[0])
        elif isinstance(module, VisionTransformer):
            found["scored"] += len(args[0])

    decode = AutoencoderKL.decode

    def counted_decode(self: AutoencoderKL, z: torch.Tensor, *more: Any, **named: Any) -> Any:
        found["decoded"] += len(z)
        return decode(self, z, *more, **named)

    AutoencoderKL.decode = counted_decode
    handle = torch.nn.modules.module.register_module_forward_pre_hook(see)
    try:
        yield found
    finally:
        handle.remove()
        AutoencoderKL.decode = decode


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        *(
            pytest.param(one, id=str(one))
            for one in [
                {"extract": {"keep_kv": 2}, "fuse": {"batch_size": 2}},  # those of the first prompt, not of the second
                {"extract": {"keep_kv": "none"}, "fuse": {"last_t": 2}, "train": {"last_t": 2}},
                {
                    "train": {"pairs_per_update": 3, "micro_batch": 5}
                },  # two updates an epoch, neither a multiple of the micro-batch
                {"pairing": {"mode": "top_quarter_twice"}},
                {"pairs": "naive"},
                {"pairs": "same_noise"},
                {"pairs": "inversion"},
            ]
        ),
    ],
    ids=str,
)
def test_work_of_every_stage(workspace: Path, changes: dict[str, Any]) -> None:
    change(algo="ddpo", **changes)  # DPO leaves out what winner and loser share, so there training is an upper bound
    planned = workload(load_everything()).stages
    run("init")
    run("evaluate", "init")
    for stage in ROUND_STAGES:
        with counted() as found:
            run(stage)
        assert found == vars(planned[stage]), stage


@pytest.mark.slow
def test_dpo_trains_no_more_than_planned(workspace: Path) -> None:
    change(adopt={"enabled": False})  # every target is taken, and shares its first step with its base
    planned = workload(load_everything()).stages["train"]
    run("init")
    for stage in ROUND_STAGES[:-2]:
        run(stage)
    with counted() as found:
        run("train")
    assert planned.trained_rows * 3 / 4 == found["trained_rows"]  # first_t is 3 of 4


def test_bytes_on_disk(project: Path) -> None:
    """Zarr's metadata and checksums come on top: a few per cent of real sizes, here as much again as the arrays."""
    params = load_everything()
    work = workload(params)
    disk = count_disk(work, count_costs(params, torch.float32), params)
    planned = disk.stages | {"kv": work.kept_kv * disk.of_reference}
    for stage in ("sample", "score", "extract", "kv", "fuse", "evaluate"):
        arrays = sum(array_bytes(store) for store in Path("runs/r00", stage).glob("arrays.zarr"))
        assert planned[stage] == arrays, stage


def array_bytes(store: Path) -> int:
    import zarr

    return sum(
        array.nbytes
        for _, array in zarr.open_group(store, mode="r").members(max_depth=None)
        if isinstance(array, zarr.Array)
    )
