"""`dfusion export --merged`: the base model's whole folder with the adapter merged into its weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import ExportError
from ...models.loading import load_pipeline
from ...models.lora import load_lora
from ...models.mmdit import network_of
from ...params import Model
from .proof import ROUNDING, TOLERANCE, Proof, largest, predict

FOLDER = "merged"


def write_merged(fresh: Callable[[], Any], adapter: Path, out: Path) -> Proof:
    """Write ``out/merged`` in diffusers format, fp32, read it again, and compare its noise predictions with those of
    the adapter beside the base model.

    It is fp32, because 16 bits are too coarse for the change by training. An existing folder is replaced
    after the new one is verified. Raises ExportError if it cannot be written or differs by more than rounding.
    """
    folder, new = out / FOLDER, out / f".{FOLDER}"
    base = fresh()
    network = network_of(base)
    before = predict(network)
    load_lora(network, adapter, train=True)
    ours = predict(network)
    pipeline = fresh()
    load_lora(network_of(pipeline), adapter, train=False)
    network_of(pipeline).unload_lora()
    try:
        shutil.rmtree(new, ignore_errors=True)
        pipeline.save_pretrained(new, safe_serialization=True)
        again = load_pipeline(Model(id=str(new), dtype="fp32", device="cpu"))
        proof = Proof(FOLDER, "fp32", largest(ours - before), largest(predict(network_of(again)) - ours))
        check_merged(proof, largest(ours))
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    except OSError as error:
        raise ExportError(f"export: {folder} cannot be written: {error}.", "Choose another --out.") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return proof


def check_merged(proof: Proof, size: float) -> None:
    """Raise ExportError if merging changed predictions by more than rounding; ``size``: of the largest prediction."""
    if proof.error > TOLERANCE[proof.dtype] * proof.effect + ROUNDING * size:
        raise ExportError(
            f"export: {proof.file} does not do what the adapter does: noise predictions differ by {proof.error:.2g} "
            f"where the adapter changes them by {proof.effect:.2g}.",
            "Please report this.",
        )
