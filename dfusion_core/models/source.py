"""The files of a model: in a folder in diffusers format, a single .safetensors file, or a repository on the Hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, one_line
from ..store.files import files_in
from .added import lora_files, vae_files
from .builtin import MODEL_INDEX, local_path, model_source

if TYPE_CHECKING:
    from ..params import Model

PARTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")  # parts with weights
SECONDS = 10.0  # seconds to wait for the Hub's first answer
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# before the names of files that are not the model's own
ADDED = CONFIG, VAE, LORA = "model.config/", "model.vae/", "model.lora/"
PICKLES = (".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Source:
    """A model on disk. ``files`` are the paths, below ``path``, of all files that are read; ``revision`` is the
    commit of a Hub repository, else None. A single file has only its own name. ``vae``: the source of ``model.vae``."""

    path: Path
    files: tuple[str, ...]
    revision: str | None = None
    vae: Source | None = None

    @property
    def is_single_file(self) -> bool:
        """Whether all weights are in one file."""
        return self.path.is_file()


def locate(model: Model, pinned: Mapping[str, Any] | None = None) -> Source:
    """Find the model and ``model.vae``, and download missing files from the Hub.

    ``pinned`` has the commits that ``init`` resolved; they take precedence over ``model.revision``. Raises ModelError.
    """
    found = _locate_model(model, pinned["revision"] if pinned else None)
    if model.vae is None:
        return found
    return replace(found, vae=_locate_vae(model, model.vae, pinned.get("vae_revision") if pinned else None))


def _locate_model(model: Model, pinned: str | None) -> Source:
    path = Path(model_source(model.id)).expanduser()
    if path.is_dir():
        inside = files_in(path) if (path / MODEL_INDEX).is_file() else ()  # and not a whole disk
        return Source(path, _needed(model, (name for name, _ in inside)))
    if path.suffix in PICKLES:
        raise ModelError(
            f"model.id: '{model.id}' is a pickle, which may run a program when it is read; only safetensors is read.",
            "Use the model's .safetensors file, or convert it where you trust it.",
        )
    if path.is_file():
        return Source(path, (path.name,))
    if path.suffix == ".safetensors" or path.parts[:-1] and path.parent.is_dir() or not HUB_ID.fullmatch(model.id):
        raise ModelError(
            f"model.id: there is no folder or file '{model.id}'.",
            "Set model.id to a folder in diffusers format, a .safetensors file, a name on the Hub as "
            "OWNER/NAME, or micro-world; experiments in a copy of the project see what git or DVC know, "
            "and what lies below the project's root.",
        )
    return _from_hub(model.id, pinned or model.revision, partial(_needed, model))


def _locate_vae(model: Model, name: str, pinned: str | None) -> Source:
    path = local_path(name)
    if any((path / config).is_file() for config in ("config.json", "vae/config.json")):  # and not a whole disk
        return Source(path, vae_files(model, (file for file, _ in files_in(path)), _is_variant))
    if path.exists() or path.suffix in (".safetensors", *PICKLES) or not HUB_ID.fullmatch(name):
        raise ModelError(
            f"model.vae: '{name}' is no folder with an autoencoder in diffusers format (config.json and safetensors).",
            "Set model.vae to such a folder, to a name on the Hub as OWNER/NAME, or to null for the model's own.",
        )
    return _from_hub(name, pinned, lambda files: vae_files(model, files, _is_variant), "model.vae")


def model_files(model: Model, source: Source) -> dict[str, Path]:
    """All files that a model's output depends on, by name: its own, and those of a folder in ``model.config``."""
    own = {name: source.path if source.is_single_file else source.path / name for name in source.files}
    own |= {f"{LORA}{name}": path for name, path in lora_files(model).items()}
    if source.vae is not None:
        own |= {f"{VAE}{name.removeprefix('vae/')}": source.vae.path / name for name in source.vae.files}
    config = local_path(model.config) if model.config and source.is_single_file else None
    if config is None or not config.is_dir():
        return own
    from .single_file import config_files

    return own | {f"{CONFIG}{name}": path for name, path in config_files(config).items()}


def model_inputs(model: Model) -> dict[str, Path | list[Path]]:
    """A local model as an input of ``init``: the files of a folder that are read."""
    path = Path(model_source(model.id))
    if not path.is_file() and not (path / MODEL_INDEX).is_file():
        return {LORA.rstrip("/"): list(lora_files(model).values())} if model.lora else {}
    files = model_files(model, locate(model))
    found: dict[str, Path | list[Path]] = {
        prefix.rstrip("/"): of_it
        for prefix in ADDED
        if (of_it := [file for name, file in files.items() if name.startswith(prefix)])
    }
    return {"model": path if path.is_file() else [files[name] for name in own_names(files)]} | found


def own_names(files: Iterable[str]) -> list[str]:
    """The names of `model_files` that are the model's own files."""
    return [name for name in files if not name.startswith(ADDED)]


def _from_hub(
    name: str, revision: str | None, needed: Callable[[Iterable[str]], tuple[str, ...]], key: str = "model.id"
) -> Source:
    """The needed files of a repository in the Hub's cache; missing ones are downloaded. ``key`` is the key in
    params.yaml.

    The cache is also used if the Hub cannot be reached, or does not have the repository.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(name, revision=revision, timeout=SECONDS)
        names = needed(one.rfilename for one in info.siblings or ())
        folder = snapshot_download(name, revision=info.sha, allow_patterns=list(names), etag_timeout=SECONDS)
        return Source(Path(folder), names, info.sha)
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        problem = ModelError(
            f"{key}: the Hub does not give '{name}'{f' at {revision}' if revision else ''}: {one_line(error)}.",
            "Check the name; for a private or gated model run 'hf auth login'; docs/models.md says where models that "
            "left the Hub may be found.",
        )
    except ModelError:
        raise
    except Exception as error:  # no network, offline mode, the Hub is down: the HTTP library has its own errors
        problem = ModelError(
            f"{key}: '{name}' is not in the Hub's cache, and the Hub cannot be reached: {one_line(error)}.",
            f"Fetch it where there is a network ('hf download'), or set {key} to a local folder or file.",
        )
    path = _cached(name, revision)
    if path is None:
        raise problem
    names = needed(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return Source(path, names, path.name)  # a folder of the cache has the name of its commit


def _cached(name: str, revision: str | None) -> Path | None:
    """The folder in the Hub's cache, if there is one; it may have only some of the repository's files."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except IncompleteSnapshotError as error:  # incomplete if every file were wanted
        return Path(error.snapshot_path)
    except LocalEntryNotFoundError:
        return None


def _needed(model: Model, names: Iterable[str]) -> tuple[str, ...]:
    """The files from which a pipeline is made. Raises ModelError if a part has no safetensors."""
    there = sorted(names)
    if MODEL_INDEX not in there:
        raise ModelError(
            f"model.id: '{model.id}' is not in diffusers format: it has no {MODEL_INDEX}.",
            "Set model.id to the folder that holds it, or to a .safetensors file.",
        )
    kept = [name for name in there if name == MODEL_INDEX or name.startswith(("tokenizer", "scheduler/"))]
    for part in PARTS:
        inside = [name for name in there if name.startswith(f"{part}/")]
        weights = [name for name in inside if _is_variant(name, model.variant)]
        if inside and not weights:
            files = ", ".join(name for name in inside if name.endswith((".safetensors", *PICKLES))) or "no weights"
            raise ModelError(
                f"model.variant: {part} of '{model.id}' has no safetensors of the variant {model.variant or 'null'}: "
                f"there is {files}.",
                "Set model.variant to one that is there, or use another copy of the model.",
            )
        kept += [name for name in inside if name.endswith("config.json")] + weights
    return tuple(sorted(kept))


def _is_variant(name: str, variant: str | None) -> bool:
    """Whether a file holds weights of this variant, as diffusers and transformers name them; with their index."""
    middle = f"\\.{re.escape(variant)}" if variant else ""
    return (
        re.fullmatch(
            rf"[^/]+/(diffusion_pytorch_model|model)({middle}|{middle}-\d+-of-\d+|-\d+-of-\d+{middle})"
            rf"\.safetensors|[^/]+/[\w.]+\.safetensors\.index{middle}\.json",
            name,
        )
        is not None
    )
