"""What a row, a picture and a reference cost with the model, adapter and reward that the parameters name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ...errors import DFusionError, ModelError, one_line
from ...models.size import latent_size
from . import counting, networks
from .lookup import find_architecture
from .mmdit import velocity_call

if TYPE_CHECKING:
    from ...models.architectures import Architecture
    from ...params.sections import Everything


@dataclass(frozen=True)
class Costs:
    """FLOPs and bytes of one of each. Weights are in bytes as they lie on the device."""

    architecture: Architecture
    latent_size: networks.Size
    unet_weights: int
    other_weights: int  # of the autoencoder and the text encoders
    adapter_parameters: int
    row_flops: int
    trained_row_flops: int  # forward and backward
    row_working: int
    trained_row_saved: int
    decode_flops: int
    decode_working: int
    reward_weights: int
    score_flops: int
    score_working: int
    sizes: dict[str, int]  # of the schema's dimensions
    kv: dict[str, tuple[int, int, int]]  # (head, token, channel) of each array of a reference's keys and values


def count_costs(params: Everything, dtype: torch.dtype) -> Costs:
    """Count everything on the meta device. Raises ModelError, LayerError, ParamsError and RewardError."""
    architecture = find_architecture(params.model)
    try:
        return _counted(params, dtype, architecture)
    except DFusionError:
        raise
    except (
        Exception
    ) as error:  # what odd configurations make diffusers, transformers and open_clip raise is of any kind
        raise ModelError(
            f"plan: the configurations of model.id '{params.model.id}' or reward.model '{params.reward.model}' make no "
            f"network: {one_line(error) or type(error).__name__}.",
            "Look at the model itself with 'dfusion doctor'.",
        ) from error


def _counted(params: Everything, dtype: torch.dtype, architecture: Architecture) -> Costs:
    unet = networks.build_unet(architecture, dtype)
    size = latent_size(params.sample, architecture.unet, architecture.vae)
    row = row_call(architecture, unet, size)
    adapted = networks.build_unet(architecture, dtype, params.lora)
    if params.model.gradient_checkpointing:
        adapted.enable_gradient_checkpointing()
    trained_row = row_call(architecture, adapted, size)
    vae = networks.build_vae(architecture, dtype)
    decode = networks.decode_call(vae, size)
    clip, picture_size, features = networks.build_reward(params.reward.model)
    score = networks.reward_call(clip, picture_size)
    working = counting.working_bytes(row, unet.parameters())
    saved = (
        counting.training_bytes(trained_row, adapted.parameters()) - working
        if params.model.gradient_checkpointing
        else counting.saved_bytes(trained_row, adapted.parameters())
    )
    each, width = dtype.itemsize, torch.float32.itemsize
    return Costs(
        architecture=architecture,
        latent_size=size,
        unet_weights=networks.parameters(unet) * each,
        other_weights=networks.parameters(vae) * vae.dtype.itemsize + networks.text_parameters(architecture) * each,
        adapter_parameters=networks.parameters(adapted) - networks.parameters(unet),
        row_flops=counting.forward_flops(row),
        trained_row_flops=counting.training_flops(trained_row),
        row_working=working,
        trained_row_saved=saved,
        decode_flops=counting.forward_flops(decode),
        decode_working=counting.working_bytes(decode, vae.parameters()),
        reward_weights=networks.parameters(clip) * width,
        score_flops=counting.forward_flops(score),
        score_working=counting.working_bytes(score, clip.parameters()),
        sizes=_sizes(params, architecture, unet, size, row, decode) | {"feature": features},
        kv=_kv(params, unet, row),
    )


def row_call(
    architecture: Architecture,
    network: networks.Network,
    size: networks.Size,
    rows: int = 1,
    device: torch.device = networks.META,
) -> counting.Forward:
    """A forward of the network for rows of latents of this size."""
    tokens = networks.tokens_of(architecture)
    if architecture.is_transformer:
        return velocity_call(network, size, rows, tokens, device)
    return networks.unet_call(network, rows, tokens, device, size)


def _sizes(
    params: Everything,
    architecture: Architecture,
    unet: networks.Network,
    latent: networks.Size,
    row: counting.Forward,
    decode: counting.Forward,
) -> dict[str, int]:
    """Sizes of the schema's dimensions, from what the stages' own code would be given."""
    from ...attention.control import capturing

    with counting.FusedAttention(), torch.no_grad(), capturing(unet, params.sample.maps) as tap:
        row()
        map_y, map_x = tap.maps().shape[1:3]
        picture_rows, picture_columns = decode().shape[-2:]
    steps = params.sample.num_steps
    return {
        "state": steps + 1,
        "i": steps,
        "channel": architecture.vae["latent_channels"],
        "height": latent[0],
        "width": latent[1],
        "map_y": map_y,
        "map_x": map_x,
        "row": picture_rows,
        "column": picture_columns,
        "rgb": 3,
    }


def _kv(params: Everything, unet: networks.Network, row: counting.Forward) -> dict[str, tuple[int, int, int]]:
    """Keys and values that one row leaves in the fused layers."""
    from ...attention.control import recording_kv
    from ...attention.layers import fused_layers

    layers = fused_layers(unet, params.fuse.layers)
    with counting.FusedAttention(), torch.no_grad(), recording_kv(unet, layers) as tap:
        row()
    shapes = {
        f"{name}/{which}": tensor.shape[1:]
        for name, both in tap.kv.items()
        for which, tensor in zip("KV", both, strict=True)
    }
    return {name: (shape[0], shape[1], shape[2]) for name, shape in shapes.items()}
