"""Extract: pair images by Algorithm 1, turn the references' maps into masks (Eq. 4), keep some keys and values.

reads   sample/, score/, the prompt file
writes  extract/  mask, item_mask (one row a reference), references.csv, pairs.csv
        kv/       keys and values of the first references, as many as extract.keep_kv says
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfusion_core.params import load_params
from dfusion_core.params.rounds import previous
from dfusion_core.prompts.reading import find_file, load_prompts
from dfusion_core.runtime.entry import run_stage
from dfusion_core.store import open_stage, read_stage
from dfusion_core.store.paths import adapter, output

if TYPE_CHECKING:
    import pandas as pd


def masks(round: str) -> None:
    """Pair the images of ROUND and binarise the references' maps."""
    params = load_params("prompts", "sample", "extract", "pairing", "fuse")
    prompts = load_prompts(params.prompts.file).train
    inputs = {"sample": output("sample", round), "score": output("score", round),
              "prompts": find_file(params.prompts.file)}
    with open_stage("extract", round=round, params=params, inputs=inputs) as run:
        if run.done:
            return
        from dfusion_core.extraction.masks import check_masks, reference_masks
        from dfusion_core.pairing.plan import pair_plan

        sampled, scores = read_stage("sample", round), read_stage("score", round).table("scores")
        images = sampled.table("images")
        pairs, references = pair_plan(images, scores, params.pairing.mode)
        run.describe = lambda row: describe(references, row)
        for rows in run.unfinished(len(references), 64):
            part = references.loc[list(rows)]
            found = reference_masks(
                sampled.rows("cross_map", part.image), [prompts[p] for p in part.prompt_id],
                params.extract)
            check_masks(found.mask, params.sample.num_steps, params.fuse, [run.describe(row) for row in rows])
            run.write(rows, mask=found.mask, item_mask=found.item_mask)
        run.write_table("references", references)
        run.write_table("pairs", pairs)


def describe(references: pd.DataFrame, row: int) -> str:
    """Which image a reference is, for messages."""
    return f"reference {row} ('{references.prompt[row]}', seed {references.seed[row]})"


def kept(keep_kv: str | int, references: int) -> int:
    """How many references' keys and values are stored."""
    if isinstance(keep_kv, int):
        return min(keep_kv, references)
    return references if keep_kv == "all" else 0


def keys_and_values(round: str) -> None:
    """Replay the first references of ROUND and keep their self-attention keys and values."""
    params = load_params("model", "sample", "extract", "fuse", "rounds")
    before = previous(params, round)
    inputs = {"adapter": output("train", before), "sample": output("sample", round),
              "extract": output("extract", round)}
    with open_stage("kv", round=round, params=params, inputs=inputs) as run:
        if run.done:
            return
        references = read_stage("extract", round).table("references")
        count = kept(params.extract.keep_kv, len(references))
        if count == 0:
            return
        from dfusion_core.extraction.keys_values import replay
        from dfusion_core.models.policy import load_policy

        policy = load_policy(params.model, params.sample, adapter(before))
        empty = policy.embed([""])
        sampled = read_stage("sample", round)
        run.describe = lambda row: describe(references, row)
        for rows in run.unfinished(count, 1):  # one reference at a time: its whole window is one batch already
            part = references.loc[list(rows)]
            run.write_arrays(rows, replay(
                policy, sampled.tensor("x", part.image), policy.embed(part.prompt.tolist()), empty, params.fuse,
                run.describe(rows.start)))


def extract(round: str) -> None:
    """Masks, pairs and the key/value cache of ROUND."""
    masks(round)
    keys_and_values(round)


if __name__ == "__main__":
    run_stage(extract)
