"""`dfusion prune ROUND`: lists the files to delete; --apply deletes them."""

from __future__ import annotations

from typing import Annotated

import typer

from ...runtime.entry import guarded


@guarded
def prune(
    round: Annotated[str, typer.Argument(help="A finished round, as r00.")],
    apply: Annotated[bool, typer.Option("--apply", help="Delete; without it nothing is changed.")] = False,
) -> None:
    """Delete trajectories, attention maps, keys and values of a finished round."""
    from ...store.pruning import SPARE, prune_output, spare_files
    from . import checking

    checking.require_spare(round)
    found = {stage: sum(int(entry["size"]) for entry in spare_files(stage, round).values()) for stage in SPARE}
    for stage, size in found.items():
        print(f"{f'runs/{round}/{stage}':24} {gib(size):>12}")
    print(f"{'all':24} {gib(sum(found.values())):>12}")
    if not apply:
        print(
            f"Nothing was changed. Delete it with 'dfusion prune {round} --apply'; what is deleted comes back only "
            "by making it again."
        )
        return
    if checking.is_recorded() and not checking.has_begun(round):
        checking.require_unchanged(checking.dvc_stages(round))
    checking.begin(round)
    for stage, size in found.items():
        if size:
            prune_output(stage, round)
    if checking.is_recorded():
        checking.record(checking.dvc_stages(round))
        print(
            "dvc.lock is up to date. DVC's cache still holds what was deleted: 'dvc gc --workspace' frees it, and "
            "with it whatever other branches, commits and experiments have there and not in a remote."
        )
    checking.end(round)


def gib(size: int) -> str:
    """Bytes as GiB; a small model's as MiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.2f} MiB"
