"""What `dfusion plan` counts for SD 3.5 medium and FLUX, and for a folder in diffusers format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dfusion_core.commands.plan.costs import count_costs, row_call
from dfusion_core.commands.plan.lookup import find_architecture
from dfusion_core.commands.plan.memory import stage_memory
from dfusion_core.commands.plan.mmdit import shorten
from dfusion_core.commands.plan.networks import build_unet, parameters, tokens_of
from dfusion_core.commands.plan.workload import workload
from dfusion_core.errors import ModelError
from dfusion_core.models.architectures import KNOWN
from dfusion_core.models.policy import load_policy
from dfusion_core.models.size import own_side
from dfusion_core.params import Model, Sample
from dfusion_core.params.loading import load_everything
from dfusion_core.testing import tiny_flux, tiny_params, tiny_sd3


@pytest.mark.parametrize(
    ("name", "family", "count", "tokens"),
    [
        ("stabilityai/stable-diffusion-3.5-medium", "sd35-medium", 2.24e9, 77 + 256),
        ("black-forest-labs/FLUX.1-dev", "flux", 11.9e9, 512),
    ],
)
def test_published_sizes(name: str, family: str, count: float, tokens: int) -> None:
    architecture = find_architecture(Model(id=name))
    assert architecture == replace(KNOWN[family], assumed=True) and own_side(architecture.unet, architecture.vae) == 128
    network = build_unet(architecture, torch.bfloat16)
    assert parameters(network) == pytest.approx(count, rel=0.002) and tokens_of(architecture) == tokens
    assert row_call(architecture, shorten(network), (128, 128))().shape == (1, 16, 128, 128)


@pytest.mark.few(1)
@pytest.mark.parametrize(("make", "last", "halves"), [(tiny_sd3, "block_2", 2), (tiny_flux, "single_1", 1)])
def test_a_folder_is_counted_as_it_is_loaded(make, last: str, halves: int, workspace: Path) -> None:  # type: ignore[no-untyped-def]
    make(workspace / "model")
    tiny_params(workspace, lora={"targets": ["to_q"]}, sample={"maps": "block_1"}, fuse={"layers": ["block_0", last]})
    params = load_everything()
    costs = count_costs(params, torch.float32)
    policy = load_policy(Model(id="model", device="cpu"), Sample(num_steps=2), None)
    assert costs.unet_weights == 4 * sum(p.numel() for p in policy.unet.parameters())
    others = [policy.vae, *(encoder for _, encoder in policy.encode.parts)]
    assert costs.other_weights == 4 * sum(p.numel() for part in others for p in part.parameters())
    assert (costs.sizes["map_y"], costs.sizes["height"], costs.sizes["channel"]) == (4, 8, 4)
    assert costs.kv[f"{last}.0/K"][1] == 16 and costs.row_flops > 0
    assert costs.architecture.halves == halves == policy.halves
    assert workload(params, 2).stages["sample"].rows == 2 * workload(params, 1).stages["sample"].rows
    assert stage_memory(params, costs)["train"].each == 2 * halves * (costs.trained_row_saved + costs.row_working)


def test_another_transformer_is_refused_by_name(workspace: Path) -> None:
    tiny_sd3(workspace / "model")
    file = workspace / "model/transformer/config.json"
    file.write_text(file.read_text().replace("SD3Transformer2DModel", "SanaTransformer2DModel"))
    with pytest.raises(ModelError, match="SanaTransformer2DModel.*FluxTransformer2DModel"):
        find_architecture(Model(id="model"))
