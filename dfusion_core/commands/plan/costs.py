"""Costs of a row, a picture and a reference with the model, adapter and reward of the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ...errors import DFusionError, ModelError, one_line
from ...models.size import latent_size, picture_scale
from . import counting, networks
from .lookup import find_architecture
from .mmdit import velocity_call
from .rewards import reward_costs

if TYPE_CHECKING:
    from ...models.architectures import Architecture
    from ...params.sections import Everything


SMALL = 10_000_000  # weights


@dataclass(frozen=True)
class Costs:
    """FLOPs and bytes of one of each. Bytes of weights are those on the device."""

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


def count_costs(params: Everything, dtype: torch.dtype, device: torch.device = networks.META) -> Costs:
    """Count everything: on the meta device, or small networks on a CPU. The costs are equal to some bytes.

    A network is built once and each kind of pass goes through it once, because counting takes time.
    Raises ModelError, LayerError, ParamsError and RewardError.
    """
    architecture = find_architecture(params.model)
    try:
        return _counted(params, dtype, device, architecture)
    except DFusionError:
        raise
    except Exception as error:  # odd configurations make diffusers, transformers and open_clip raise any kind
        raise ModelError(
            f"plan: the configurations of model.id '{params.model.id}' or reward.model '{params.reward.model}' make no "
            f"network: {one_line(error) or type(error).__name__}.",
            "Look at the model itself with 'dfusion doctor'.",
        ) from error


def _counted(params: Everything, dtype: torch.dtype, device: torch.device, architecture: Architecture) -> Costs:
    size = latent_size(params.sample, architecture.unet, architecture.vae)
    network, vae = networks.build_unet(architecture, dtype), networks.build_vae(architecture, dtype)
    where = counted_on(network, dtype, device)
    for one in (network, vae):
        networks.materialise(one, where)
    row, decode = row_call(architecture, network, size, device=where), networks.decode_call(vae, size, where)
    reward = reward_costs(params.reward.model)
    weights = networks.parameters(network)
    row_flops, row_working = counting.forward_costs(row, network.parameters())
    decode_flops, decode_working = counting.forward_costs(decode, vae.parameters())
    maps, kv = _shapes(params, network, row)
    networks.add_adapter(network, params.lora, checkpointing=params.model.gradient_checkpointing)
    trained_flops, saved = _training(params, network, row, row_working)
    each, width = dtype.itemsize, torch.float32.itemsize
    return Costs(
        architecture=architecture,
        latent_size=size,
        unet_weights=weights * each,
        other_weights=networks.parameters(vae) * vae.dtype.itemsize + networks.text_parameters(architecture) * each,
        adapter_parameters=networks.parameters(network) - weights,
        row_flops=row_flops,
        trained_row_flops=trained_flops,
        row_working=row_working,
        trained_row_saved=saved,
        decode_flops=decode_flops,
        decode_working=decode_working,
        reward_weights=reward.parameters * width,
        score_flops=reward.flops,
        score_working=reward.working,
        sizes=_sizes(params, architecture, size, maps) | {"feature": reward.features},
        kv=kv,
    )


def counted_on(network: networks.Network, dtype: torch.dtype, device: torch.device) -> torch.device:
    """The CPU where that is the device and a row takes next to no time; operations on the meta device take longer."""
    small = networks.parameters(network) <= SMALL and dtype == torch.float32
    return device if device.type == "cpu" and small else networks.META


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


def _training(params: Everything, network: networks.Network, row: counting.Forward, working: int) -> tuple[int, int]:
    """FLOPs of a trained row, and the bytes that it adds to what a forward pass holds anyway."""
    if not params.model.gradient_checkpointing:
        return counting.training_costs(row, network.parameters())
    return counting.training_flops(row), counting.training_bytes(row, network.parameters()) - working


def _shapes(
    params: Everything, network: networks.Network, row: counting.Forward
) -> tuple[tuple[int, int], dict[str, tuple[int, int, int]]]:
    """Height and width of a row's captured maps, and its keys and values in the fused layers, by the stages' code."""
    from ...attention.control import capturing, recording_kv
    from ...attention.layers import fused_layers

    layers = fused_layers(network, params.fuse.layers)
    with counting.FusedAttention(), torch.no_grad():
        with capturing(network, params.sample.maps) as maps:
            row()
        with recording_kv(network, layers) as tap:
            row()
    shapes = {
        f"{name}/{which}": tensor.shape[1:]
        for name, both in tap.kv.items()
        for which, tensor in zip("KV", both, strict=True)
    }
    height, width = maps.maps().shape[1:3]
    return (height, width), {name: (shape[0], shape[1], shape[2]) for name, shape in shapes.items()}


def _sizes(
    params: Everything, architecture: Architecture, latent: networks.Size, maps: networks.Size
) -> dict[str, int]:
    """Sizes of the schema's dimensions."""
    steps, scale = params.sample.num_steps, picture_scale(architecture.vae)
    return {
        "state": steps + 1,
        "i": steps,
        "channel": architecture.vae["latent_channels"],
        "height": latent[0],
        "width": latent[1],
        "map_y": maps[0],
        "map_x": maps[1],
        "row": latent[0] * scale,
        "column": latent[1] * scale,
        "rgb": 3,
    }
