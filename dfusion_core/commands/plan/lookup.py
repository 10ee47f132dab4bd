"""The network of a model id, without loading weights and without a network connection.

It is read from the config.json files of a local folder or a cached Hub repository, and from the shapes in a single
.safetensors file or ``model.config``. For a Hub name that is not cached the published configurations are assumed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ModelError, one_line
from ...models.architectures import KNOWN, Architecture, Config, family_of_file
from ...models.builtin import local_path, model_source
from ...models.configs import read_checked
from ...models.mmdit import TRANSFORMERS

if TYPE_CHECKING:
    from ...params import Model

# Parts of names of Hub repositories and their families; the first match counts.
NAMES = (
    ("flux", r"flux.*dev"),
    ("sd35-medium", r"diffusion-3\.5-medium"),
    ("sdxl", r"xl"),
    ("sd21", r"diffusion-2.*base|sd-?2.*base"),
    ("sd21-v", r"diffusion-2|sd-?2|2[-.]1"),
    ("sd15", r"diffusion-v?1|sd-?1|1[-.][45]"),
)


def find_architecture(model: Model) -> Architecture:
    """The architecture of ``model.id`` with ``model.vae``. Raises ModelError if it is unknown.

    An autoencoder on the Hub that is not cached is assumed to have the size of the model's own.
    """
    found = _of_model(model)
    for name in ("config.json", "vae/config.json") if model.vae else ():
        file = local_path(str(model.vae)) / name
        if not file.is_file():
            file = _cached_file(str(model.vae), name, None)
        if file.is_file():
            return replace(found, vae=_read(file, "model.vae"))
    return found


def _of_model(model: Model) -> Architecture:
    path = Path(model_source(model.id)).expanduser()
    if path.is_dir():
        return _from_files(model.id, lambda name: path / name)
    if path.suffix == ".safetensors":
        if model.config is not None and Path(model.config).is_dir():
            folder = Path(model.config)
            return _from_files(model.id, lambda name: folder / name)
        return replace(KNOWN[model.config if model.config in KNOWN else family_of_file(path)], assumed=True)
    cached = _from_cache(model.id, model.revision)
    if cached is not None:
        return cached
    for family, pattern in NAMES:
        if re.search(pattern, model.id, re.IGNORECASE):
            return replace(KNOWN[family], assumed=True)
    raise ModelError(
        f"plan: model.id: '{model.id}' is not on this machine, and its name does not tell which architecture it is.",
        "Download it first, or set model.id to the folder that it is in.",
    )


def _from_files(name: str, find: Callable[[str], Path]) -> Architecture:
    """Read the config.json files that ``find`` gives by their names in the repository."""
    try:
        part = "transformer" if find("transformer/config.json").exists() else "unet"
        unet, vae = (_read(find(f"{one}/config.json")) for one in (part, "vae"))
        text = [find(f"{one}/config.json") for one in ("text_encoder", "text_encoder_2", "text_encoder_3")]
        encoders = tuple(_read(file) for file in text if file.exists())
        kind = str(unet.get("_class_name")) if part == "transformer" else "UNet2DConditionModel"
        if part == "transformer" and kind not in TRANSFORMERS:
            raise ValueError(f"its transformer is a {kind}, and this program knows {', '.join(TRANSFORMERS)}")
        return Architecture(name, unet, vae, encoders, kind=kind)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"plan: model.id: '{name}' is no model in diffusers format: {one_line(error)}.",
            "Set model.id to a folder with unet/config.json (or transformer/config.json) and vae/config.json in it.",
        ) from error


def _read(file: Path, key: str = "model.id") -> Config:
    """A configuration, checked as where the model is loaded. Raises ModelError, and OSError where there is none."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}")
    return read_checked(file, key)


def _from_cache(repository: str, revision: str | None) -> Architecture | None:
    """A Hub repository with cached configurations, without a request to a server."""

    def find(name: str) -> Path:
        return _cached_file(repository, name, revision)

    network = any(find(f"{part}/config.json").exists() for part in ("unet", "transformer"))
    cached = network and find("vae/config.json").exists()
    return _from_files(repository, find) if cached else None


def _cached_file(repository: str, name: str, revision: str | None) -> Path:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repository, name, revision=revision)
    except HFValidationError:  # neither a name on the Hub nor a folder that exists
        found = None
    return Path(found) if isinstance(found, str) else Path(name, "is-not-cached")
