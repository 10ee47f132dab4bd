"""Extract: pair images by Algorithm 1, make masks from the references' maps (Eq. 4), store keys and values.

reads   sample/, score/, the prompt file
writes  extract/  mask, item_mask (one row per reference), references.csv, pairs.csv
        kv/       keys and values of the first extract.keep_kv references
"""

from __future__ import annotations

from dfusion_core.diffusion.window import step_indices
from dfusion_core.pairing.plan import image_name
from dfusion_core.params import load_params
from dfusion_core.params.rounds import previous
from dfusion_core.prompts.reading import find_file, load_prompts
from dfusion_core.prompts.texts import texts_input
from dfusion_core.runtime.entry import run_stage
from dfusion_core.store import Input, open_stage, read_stage
from dfusion_core.store.paths import adapter, output


def masks(round: str) -> None:
    """Pair the images of ROUND and binarise the references' maps."""
    params = load_params("prompts", "sample", "extract", "pairing", "fuse")
    prompts = load_prompts(params.prompts.file).train
    inputs: dict[str, Input] = {
        "sample": output("sample", round),
        "score": output("score", round),
        "prompts": find_file(params.prompts.file),
        "texts": texts_input(params.prompts),
    }
    with open_stage("extract", round=round, params=params, inputs=inputs) as run:
        if run.done:
            return
        from dfusion_core.extraction.masks import empty_because, empty_masks, reference_masks
        from dfusion_core.pairing.plan import pair_plan

        sampled, scores = read_stage("sample", round), read_stage("score", round).table("scores")
        pairs, references = pair_plan(sampled.table("images"), scores, params.pairing.mode)
        steps, reasons = step_indices(params.fuse, params.sample.num_steps), ""
        run.describe = lambda row: image_name(references, row)
        for rows in run.unfinished(len(references), 64):
            part = references.loc[list(rows)]
            made = reference_masks(
                sampled.rows("cross_map", part.image), [prompts[p] for p in part.prompt_id], params.extract
            )
            empty = empty_masks(made, steps)
            reasons = reasons or (empty_because(made, steps, params.extract) if empty.any() else "")
            run.write(rows, mask=made.mask, item_mask=made.item_mask, _empty=empty)
        empty_mask = run.collect("_empty")
        if empty_mask.any():
            run.say(
                f"the masks of {empty_mask.sum()} of {len(references)} references are empty at every fused step, "
                f"and their targets will be their bases: {reasons or 'lower the thresholds'}"
            )
        run.write_table("references", references.assign(empty_mask=empty_mask))
        run.write_table("pairs", pairs)


def stored_count(keep_kv: str | int, references: int) -> int:
    """Number of references whose keys and values are stored."""
    if isinstance(keep_kv, int):
        return min(keep_kv, references)
    return references if keep_kv == "all" else 0


def keys_and_values(round: str) -> None:
    """Recompute and store keys and values of the first references of ROUND."""
    params = load_params("model", "sample", "extract", "fuse", "rounds")
    before = previous(params, round)
    inputs = {
        "adapter": output("train", before),
        "sample": output("sample", round),
        "extract": output("extract", round),
    }
    with open_stage("kv", round=round, params=params, inputs=inputs) as run:
        if run.done:
            return
        references = read_stage("extract", round).table("references")
        count = stored_count(params.extract.keep_kv, len(references))
        if count == 0:
            return
        from dfusion_core.extraction.keys_values import replay
        from dfusion_core.models.policy import load_policy

        policy = load_policy(params.model, params.sample, adapter(before))
        sampled, steps = read_stage("sample", round), step_indices(params.fuse, params.sample.num_steps)
        run.describe = lambda row: image_name(references, row)
        for rows in run.unfinished(count, 1):  # one reference at a time: its whole window is one batch already
            part = references.loc[list(rows)]
            run.write_arrays(
                rows,
                replay(
                    policy,
                    sampled.tensor("x", part.image),
                    policy.embed(part.prompt.tolist()),
                    params.fuse.layers,
                    steps,
                ),
            )


def extract(round: str) -> None:
    """Make masks, pairs and the key/value cache of ROUND."""
    masks(round)
    keys_and_values(round)


if __name__ == "__main__":
    run_stage(extract)
