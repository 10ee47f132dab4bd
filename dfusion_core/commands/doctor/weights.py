"""The diffusion model: found, unchanged, loaded, finite, and sampled by DDIM as the paper does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .facts import Facts, listed
from .findings import Finding, failed, ok, warning

if TYPE_CHECKING:
    from ...models.source import Source
    from ...params.sections import Model

GIB = 2**30
MILLION = 1e6


def files(facts: Facts) -> Finding:
    """The model's files exist, or can be downloaded."""
    from ...models.pins import read_pin
    from ...models.source import locate
    from ...params.rounds import INIT
    from ...store.paths import adapter

    pinned = read_pin(adapter(INIT))
    facts.source = locate(facts.params.model, pinned)
    source = facts.source
    where = f", revision {source.revision}, in {source.path}" if source.revision else ""
    return ok(f"{len(source.files)} files of {facts.params.model.id}{where}")


def pinned(facts: Facts) -> Finding:
    """The files are those that `init` recorded, if it ran."""
    from ...models.pins import check_pin, read_pin
    from ...params.rounds import INIT
    from ...store.paths import adapter

    pin = read_pin(adapter(INIT))
    if pin is None:
        return ok("nothing is pinned yet: 'init' writes the hashes down")
    check_pin(pin, facts.params.model, facts.source)
    return ok(f"{len(pin['files'])} files as init found them")


def model(facts: Facts) -> Finding:
    """The model can be loaded, is of a known kind, and none of its weights is NaN or infinite."""
    from ...attention.layers import kind_of
    from ...models.policy import load_policy

    policy = load_policy(facts.params.model, facts.params.sample, None)
    encoders = {f"text encoder {number}": encoder for number, (_, encoder) in enumerate(policy.encode.parts, 1)}
    parts = {kind_of(policy.unet): policy.unet, "autoencoder": policy.vae} | encoders
    bad = [
        f"{name}'s {key}"
        for name, part in parts.items()
        for key, weight in part.named_parameters()
        if not weight.isfinite().all()
    ]
    if bad:
        return failed(
            f"NaN or infinite: {listed(bad, 2)}", "Get the model's files once more; if model.dtype is fp16, try fp32."
        )
    facts.policy = policy
    sizes = (f"{name} {sum(p.numel() for p in part.parameters()) / MILLION:.1f}" for name, part in parts.items())
    return ok(
        f"million weights: {', '.join(sizes)}; latents {'x'.join(map(str, policy.latent_shape))}, "
        f"pictures {'x'.join(map(str, policy.picture_size))} (height x width)"
    )


def scheduler(facts: Facts) -> Finding:
    """The model's sampling, and differences from the paper. A model that DDIM cannot sample is not loaded."""
    from diffusers import DDIMScheduler

    from ...diffusion.flow import FlowSchedule

    steps = facts.policy.schedule
    if isinstance(steps, FlowSchedule):
        return ok(
            f"rectified flow, {steps.num_steps} steps from timestep {float(steps.timesteps[0]):.0f} to "
            f"{float(steps.timesteps[-1]):.0f}, noise of the last {float(steps.std[-1]):.2g}"
        )
    given = DDIMScheduler.from_config(scheduler_config(facts.source, facts.params.model)).config
    found = (
        f"{steps.prediction_type}, {given.timestep_spacing} spacing, {steps.num_steps} steps from timestep "
        f"{int(steps.timesteps[0])} to {int(steps.timesteps[-1])}, noise of the last {float(steps.std[-1]):.2g}"
        f"{said_by_file(facts.source, facts.params.model)}"
    )
    if given.timestep_spacing != "leading":
        return warning(
            f"{found}; the paper's spacing is leading",
            "Nothing has to be done; to repeat the paper change the model's scheduler_config.json.",
        )
    if given.set_alpha_to_one:
        return warning(
            f"{found}; the model has set_alpha_to_one, with which the last step would have no noise",
            "Nothing has to be done: that step ends at the first training timestep all the same.",
        )
    return ok(f"{found}; set_alpha_to_one false")


def scheduler_config(source: Source, model: Model) -> dict[str, Any]:
    """The scheduler's configuration in the model's files, or in the configurations for a single file."""
    from ...models.builtin import local_path
    from ...models.single_file import SCHEDULER, read_markers

    given = local_path(model.config) if model.config else None
    if source.is_single_file and not (given and given.is_dir()):
        return read_markers(source.path, model).scheduler
    folder = given if source.is_single_file and given else source.path
    file = folder / "scheduler" / "scheduler_config.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else SCHEDULER
    return found


def said_by_file(source: Source, model: Model) -> str:
    """The prediction type in a single file's metadata, or the assumed one; empty for a folder."""
    from ...models.builtin import local_path
    from ...models.single_file import read_markers

    if not source.is_single_file or (model.config and local_path(model.config).is_dir()):
        return ""
    reading = read_markers(source.path, model)
    assumed = f"; assumed {', '.join(reading.assumed)}" if reading.assumed else ""
    return f"; configuration {reading.config}, read from the file: {', '.join(reading.read) or 'no marker'}{assumed}"
