"""Checks that a stage's inputs belong together: made with its parameters, and from one another.

Each manifest records the parameters and the digests of the inputs of its output. They fit if DVC runs every stage; an
output that was copied, restored from a cache or made by hand may be of another run.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import StoreError
from .hints import dvc_stage
from .manifest import read_manifest
from .provenance import differing, flat, shown
from .schema import WRITTEN_BY

# Keys that change results by rounding only, so that a node with another device can continue a run.
ROUNDING = (
    "model.device",
    "model.compile",
    "model.gradient_checkpointing",
    "model.vae_slicing",
    "sample.batch_size",
    "reward.batch_size",
    "fuse.batch_size",
    "evaluate.batch_size",
    "train.micro_batch",
)
ORDER = ("adapter", "base", "sample", "score", "extract", "kv", "fuse", "adopt")  # earlier stages are named first


def require_agreement(
    stage: str, round: str, params: Mapping[str, Any], digests: Mapping[str, str], outputs: Mapping[str, Path]
) -> None:
    """Raise StoreError if an input was made with other parameters, or from other inputs than the present ones.

    `digests` are of all inputs, by name; `outputs` are the inputs that are published folders.
    """
    in_order = sorted(outputs, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    manifests = {outputs[name]: read_manifest(outputs[name]) for name in in_order}
    for folder, manifest in manifests.items():
        for key, (made, now) in _other_params(manifest["ingredients"]["params"], params):
            raise StoreError(
                f"{stage}: {folder} was made with {key} = {shown(made)}, and {stage} of {round} would run with "
                f"{shown(now)}.",
                f"{_make_again(folder, manifest)}, or put {key} back in params.yaml.",
            )
    known = {_meaning(stage, round, name): (digest, outputs.get(name)) for name, digest in digests.items()}
    for folder, manifest in manifests.items():
        made_of = manifest["ingredients"]
        for name, digest in made_of["inputs"].items():
            meaning = _meaning(made_of["stage"], made_of["round"], name)
            other, where = known.setdefault(meaning, (digest, folder))
            if other != digest:
                raise StoreError(
                    f"{stage}: {folder} was made from another '{name}' than {where or f'{stage} of {round}'}"
                    f"{'' if outputs.get(name) == where else ' was'}.",
                    f"{_make_again(folder, manifest)}.",
                )


def _other_params(made: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The keys of common sections that differ, except those that change rounding only."""
    both = made.keys() & now.keys()
    pairs = differing(*(flat({name: one[name] for name in both}) for one in (made, now)))
    return ((key, values) for key, values in pairs if key not in ROUNDING)


def _meaning(stage: str, round: str, name: str) -> str:
    """The meaning of an input's name, the same for all stages."""
    if name == "adapter":
        return f"the adapter {'of' if stage == 'evaluate' else 'before'} {round}"
    if name in ORDER[2:]:
        return f"{name} of {round}"
    return name  # a file or a folder of the user's, or the base model's evaluation: one for all rounds


def _make_again(folder: Path, manifest: Mapping[str, Any]) -> str:
    round, stage = manifest["ingredients"]["round"], manifest["ingredients"]["stage"]
    alone = "init" if stage == "init" else f"{WRITTEN_BY.get(stage, stage)} {round}"
    return (
        f"Make {folder} again with 'dvc repro -f -s {dvc_stage(round, stage)}' (without DVC 'python -m stages {alone}')"
    )
