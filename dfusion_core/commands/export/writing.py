"""Writing an export: all files are made and verified first, then written one by one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import ExportError
from ...evaluation.infotext import Adapter, pictures_text, png
from ...models.loading import load_pipeline
from ...models.lora import FILE, prefix_of, read_lora
from ...models.mmdit import network_of
from ...models.pins import check_pin, read_pin
from ...models.source import locate
from ...store.atomic import write_bytes
from ...store.files import files_in
from .base_model import FLOW, Base, identify
from .card import model_card
from .kohya import kohya_file, kohya_metadata, kohya_tensors
from .merged import FOLDER, write_merged
from .mmdit_files import mmdit_tensors
from .peft_files import CONFIG, WEIGHTS, peft_files
from .proof import Proof, prove
from .pushing import push
from .trained import Picture, Trained, read_trained

PICTURES = 4  # of training prompts, and as many of unseen ones


def export_round(
    round: str,
    out: Path | None,
    name: str,
    dtype: str,
    *,
    force: bool,
    check: bool,
    merged: bool = False,
    repository: str = "",
    public: bool = False,
) -> None:
    """Export ROUND (the last finished one if empty), push it to ``repository`` if there is one, print what was done.

    Raises MissingStage, and ExportError if files exist already (unless ``force``) or fail the verification.
    """
    trained = read_trained(round)
    out, name = out or Path("exports", trained.round), name or f"dfusion-{trained.round}"
    pictures = {f"samples/{i:02}-{picture.split}.png": picture for i, picture in enumerate(trained.pictures(PICTURES))}
    kept = [FILE, f"{name}.safetensors", CONFIG, WEIGHTS, "README.md", "grid.png", *pictures]
    refuse_to_replace(out, [*kept, *([FOLDER] if merged else [])], force)
    fresh = fresh_loader(trained)
    base, unet = base_model(trained, fresh)
    weights, digest = weight_files(trained, base, unet, name, dtype)
    proofs = check_files(fresh, trained, weights, dtype) if check else []
    samples = sample_files(trained, pictures, base, Adapter(name, digest))
    if merged:
        proofs = [*proofs, write_merged(fresh, trained.adapter, out)]
    card = model_card(trained, base, name, digest, dtype, proofs, list(samples), repository)
    grid = trained.evaluation.path("grid.png").read_bytes()
    files = {**weights, **samples, "grid.png": grid, "README.md": card.encode()}
    write_files(out, files)
    if force:
        remove_other_samples(out, samples)
    for proof in proofs:
        print(
            f"{proof.file} ({proof.dtype}): in a fresh model, noise predictions differ from the adapter's by at most "
            f"{proof.error:.2g}; the adapter changes the base model's by up to {proof.effect:.2g}."
        )
    print(f"{out}: the adapter of {trained.round} for {base.id}. Begin with {out / 'README.md'}.")
    if repository:
        whole = [f"{FOLDER}/{name}" for name, _ in files_in(out / FOLDER)] if merged else []
        print(f"Pushed to {repository}: {push(out, [*files, *whole], repository, public=public)}")


def refuse_to_replace(out: Path, files: list[str], force: bool) -> None:
    """Raise ExportError if one of the files is there and ``force`` is not given."""
    there = [file for file in files if (out / file).exists()]
    if there and not force:
        more = f" and {len(there) - 3} more" if len(there) > 3 else ""
        raise ExportError(
            f"export: {out} has {', '.join(there[:3])}{more} already; nothing was written.",
            "Choose another --out, or replace them with --force.",
        )


def write_files(out: Path, files: dict[str, bytes]) -> None:
    """Write the files, each atomically. Raises ExportError."""
    try:
        for file, content in files.items():
            write_bytes(out / file, content)
    except OSError as error:
        raise ExportError(f"export: {out} cannot be written: {error}.", "Choose another --out.") from error


def remove_other_samples(out: Path, files: dict[str, bytes]) -> None:
    """Delete the additional sample pictures of an earlier export."""
    for old in (out / "samples").glob("[0-9][0-9]-*.png"):
        if f"samples/{old.name}" not in files:
            old.unlink()


def fresh_loader(trained: Trained) -> Callable[[], Any]:
    """A function that loads the base model, in fp32 on the CPU, where equal arithmetic gives equal numbers.

    Raises ModelError if its weights are not the pinned ones.
    """
    pinned = read_pin(trained.adapter)
    source = locate(trained.model, pinned)
    check_pin(pinned, trained.model, source)
    return partial(load_pipeline, trained.model.model_copy(update={"dtype": "fp32", "device": "cpu"}), source)


def base_model(trained: Trained, fresh: Callable[[], Any]) -> tuple[Base, Any]:
    """The description of the base model, and the config of its network."""
    pipeline = fresh()
    config = network_of(pipeline).config
    return identify(trained.model.id, config, pipeline.scheduler.config.get("prediction_type", FLOW)), config


def weight_files(trained: Trained, base: Base, unet: Any, name: str, dtype: str) -> tuple[dict[str, bytes], str]:
    """All files of weights, and the hash of kohya's."""
    tensors, settings = read_lora(trained.adapter)
    rank = next(value.shape[0] for key, value in tensors.items() if key.endswith(".lora_A.weight"))
    alpha = (settings or {}).get(f"{prefix_of(tensors)}.lora_alpha", rank)
    if base.flow:
        renamed = mmdit_tensors(tensors, alpha / rank, dtype)
    else:
        renamed = kohya_tensors(tensors, alpha, dtype, unet.layers_per_block if base.sgm else None)
    content, digest = kohya_file(renamed, kohya_metadata(base, name, rank, alpha, trained.size))
    files = {FILE: (trained.adapter / FILE).read_bytes(), f"{name}.safetensors": content}
    return {**files, **peft_files(tensors, settings or {}, rank, alpha, base)}, digest


def check_files(fresh: Callable[[], Any], trained: Trained, weights: dict[str, bytes], dtype: str) -> list[Proof]:
    """Write the files to a temporary folder and verify them there."""
    with tempfile.TemporaryDirectory() as folder:
        for file, content in weights.items():
            Path(folder, file).write_bytes(content)
        kohya = next(file for file in weights if file not in (FILE, CONFIG, WEIGHTS))
        dtypes = {Path(folder, file): dtype if file == kohya else "fp32" for file in weights if file != CONFIG}
        return prove(fresh, trained.adapter, dtypes)


def sample_files(trained: Trained, pictures: dict[str, Picture], base: Base, adapter: Adapter) -> dict[str, bytes]:
    """The pictures as PNG, each with its generation parameters."""
    describe = partial(pictures_text, trained.sample, size=trained.size, model=base.id, adapter=adapter, flow=base.flow)
    return {
        file: png(picture.pixels, describe(prompt=picture.prompt, seed=picture.seed))
        for file, picture in pictures.items()
    }
