"""The workload of a round from the parameters: images, pairs, optimizer steps, rows of the network.

A row is one latent in a forward pass. Guidance doubles every latent; a fused target needs a row of its reference;
training has a winner and a loser for every timestep of a pair.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...diffusion.window import step_indices
from ...prompts.reading import load_prompts

if TYPE_CHECKING:
    from ...params.sections import Everything

HALVES = 2  # of the classifier-free-guidance batch
PAIR = 2  # winner and loser


@dataclass(frozen=True)
class Work:
    """The work of one stage: rows without gradients, rows with, pictures decoded and pictures scored."""

    rows: int = 0
    trained_rows: int = 0
    decoded: int = 0
    scored: int = 0


@dataclass(frozen=True)
class Workload:
    """A round's numbers. ``items`` is the largest number of items of a training prompt.

    ``rows_per_update`` is the effective batch: the rows whose gradients one optimizer step adds up. Training is an
    upper bound: an adopted target shares its first timesteps with its base, and DPO leaves those out.
    """

    rounds: int
    prompts: int
    items: int
    images: int
    references: int
    pairs: int
    targets: int
    kept_kv: int
    evaluated: int
    updates: int
    rows_per_update: int
    stages: dict[str, Work]


def workload(params: Everything, halves: int = HALVES) -> Workload:
    """Count a round; halves: rows per latent, 1 if the guidance scale is an input of the network.

    Raises PromptsError for a prompt file that is missing or has too few prompts.
    """
    prompts = load_prompts(params.prompts.file).first(params.prompts.train_count, params.prompts.test_count)
    images = len(prompts.train) * params.sample.images_per_prompt
    pairs = images // 2
    references = pairs if params.pairing.mode == "halves" else pairs // 2
    keep = params.extract.keep_kv
    kept = min(keep, references) if isinstance(keep, int) else references if keep == "all" else 0
    evaluated = params.evaluate.images_per_prompt * (
        len(prompts.train[: params.evaluate.train_count]) + len(prompts.test[: params.evaluate.test_count])
    )
    targets = 0 if params.pairs == "naive" else pairs
    steps = params.sample.num_steps
    stages = {
        "sample": Work(rows=images * steps * HALVES, decoded=images),
        "score": Work(scored=images),
        "extract": Work(rows=kept * _window(params) * HALVES),
        "fuse": Work(rows=_fuse_rows(params, pairs, references, kept), decoded=targets),
        "adopt": Work(scored=targets),
        "train": _training(params, pairs),
        "evaluate": Work(rows=evaluated * steps * HALVES, decoded=evaluated, scored=evaluated),
    }
    return Workload(
        rounds=len(params.rounds),
        prompts=len(prompts.train),
        items=max(len(p.items) for p in prompts.train),
        images=images,
        references=references,
        pairs=pairs,
        targets=targets,
        kept_kv=kept,
        evaluated=evaluated,
        updates=_groups(params, pairs) * params.train.inner_epochs,
        rows_per_update=min(pairs, params.train.pairs_per_update) * _timesteps(params) * PAIR * halves,
        stages={name: _with_halves(work, halves) for name, work in stages.items()},
    )


def _with_halves(work: Work, halves: int) -> Work:
    return replace(work, rows=work.rows * halves // HALVES, trained_rows=work.trained_rows * halves // HALVES)


def _window(params: Everything) -> int:
    """Number of fused timesteps."""
    return params.fuse.first_t - params.fuse.last_t + 1


def _timesteps(params: Everything) -> int:
    """Number of trained timesteps of a pair."""
    return len(step_indices(params.train, params.sample.num_steps))


def _groups(params: Everything, pairs: int) -> int:
    """Optimizer steps of one inner epoch."""
    return -(-pairs // params.train.pairs_per_update)


def _fuse_rows(params: Everything, pairs: int, references: int, kept: int) -> int:
    """Rows of ``fuse`` for the kind of ``pairs``. A target starts from its base's stored latent at first_t."""
    steps = params.sample.num_steps
    if params.pairs == "naive":
        return 0
    if params.pairs == "same_noise":
        return pairs * steps * HALVES
    # K and V are read instead of recomputed only if all references of a batch are stored. The references are stored
    # prompt by prompt, so those of the first prompts are.
    of_prompt = params.sample.images_per_prompt // 2
    stored = kept // (references * of_prompt // pairs) * of_prompt
    stored = pairs if kept == references else stored // params.fuse.batch_size * params.fuse.batch_size
    fused = (2 * pairs - stored) * _window(params)  # a reference's row beside the target's, unless it is stored
    plain = pairs * (params.fuse.last_t - 1)
    inverted = pairs * steps if params.pairs == "inversion" else 0
    return (fused + plain + inverted) * HALVES


def _training(params: Everything, pairs: int) -> Work:
    """Rows of the stage ``train``: micro-batches have one shape, the last of an update is padded."""
    groups, size = _groups(params, pairs), params.train.micro_batch
    left, per_update = pairs - (groups - 1) * params.train.pairs_per_update, params.train.pairs_per_update
    filled = [-(-count * _timesteps(params) // size) * size for count in [per_update] * (groups - 1) + [left]]
    before = size + sum(filled[1:])  # log p_old: the rest is computed by the first update's forward pass
    return Work(rows=before * PAIR * HALVES, trained_rows=sum(filled) * PAIR * HALVES * params.train.inner_epochs)
