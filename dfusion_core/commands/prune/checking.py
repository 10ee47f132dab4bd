"""Checks before pruning, and recording pruned outputs in DVC."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ...errors import StoreError
from ...params import load_params
from ...params.rounds import in_order, previous
from ...store.atomic import write_text
from ...store.dvc_lock import LOCK
from ...store.hints import dvc_stage
from ...store.manifest import MANIFEST, read_manifest
from ...store.paths import ROUND_STAGES, output
from ...store.scratch import scratch_root
from ...store.verify import require_sound

MADE_OF = {
    "score": ("sample",),
    "extract": ("sample", "score"),
    "fuse": ("sample", "extract", "kv"),
    "adopt": ("sample", "score", "extract", "fuse"),
    "train": ("sample", "score", "fuse", "adopt"),
}


def require_spare(round: str) -> None:
    """Raise StoreError if the round is still needed: it is unfinished, the last one, or out of date."""
    params = load_params("rounds")
    previous(params, round)
    finished = [name for name in in_order(params) if (output("evaluate", name) / MANIFEST).is_file()]
    if round not in finished:
        raise StoreError(
            f"prune: {round} is not finished: there is no {output('evaluate', round)}, and what it "
            "samples is needed for it.",
            "Run 'dvc repro' first.",
        )
    if round == finished[-1]:
        raise StoreError(
            f"prune: {round} is the last finished round, whose attention maps 'dfusion report' draws.",
            "Prune an earlier round, or finish another one first.",
        )
    for stage in (*MADE_OF, "sample", "kv"):
        require_sound(output(stage, round))
    for stage, inputs in MADE_OF.items():
        made_of = read_manifest(output(stage, round))["ingredients"]["inputs"]
        for name in inputs:
            if made_of.get(name) != read_manifest(output(name, round))["digest"]:
                raise StoreError(
                    f"prune: {output(stage, round)} was made from another {output(name, round)}, which is "
                    "needed to make it again.",
                    "Run 'dvc repro' first.",
                )


def begin(round: str) -> None:
    """Record that pruning of these outputs has begun; pruning does not change their digests."""
    write_text(_note(round), _digests(round))


def has_begun(round: str) -> bool:
    """Whether an earlier command was interrupted while pruning these outputs, which were up to date then."""
    try:
        return _note(round).read_text(encoding="utf-8") == _digests(round)
    except FileNotFoundError:
        return False


def end(round: str) -> None:
    """Record that pruning is complete."""
    _note(round).unlink(missing_ok=True)


def _note(round: str) -> Path:
    return scratch_root() / "pruning" / f"{round}.json"


def _digests(round: str) -> str:
    stages = (*ROUND_STAGES, "kv")
    return json.dumps({stage: read_manifest(output(stage, round))["digest"] for stage in stages}, indent=1)


def dvc_stages(round: str) -> list[str]:
    """The stages of a round as dvc.yaml names them."""
    return [dvc_stage(round, stage) for stage in ROUND_STAGES]


def is_recorded() -> bool:
    """Whether this project has a dvc.lock."""
    return Path(LOCK).is_file() and Path(".dvc").is_dir()


def require_unchanged(stages: Sequence[str]) -> None:
    """Raise StoreError if DVC finds one of these stages changed.

    Recording a pruned output that was out of date would make it look up to date.
    """
    status = json.loads(_dvc("status", "--json", *stages) or "{}")
    if status:
        raise StoreError(f"prune: DVC finds {', '.join(sorted(status))} changed.", "Run 'dvc repro' first.")


def record(stages: Sequence[str]) -> None:
    """Record the present outputs in dvc.lock."""
    _dvc("commit", "--force", "--quiet", *stages)


def _dvc(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StoreError(
            f"prune: 'dvc {' '.join(arguments)}' failed: {done.stderr.strip()[-300:]}.",
            "Put that right and run the same command again.",
        )
    return done.stdout.strip()
