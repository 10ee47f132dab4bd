"""The origin of the run: parameters, versions, code, model and reward, from the manifests."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from ...models.pins import read_pin
from ...params.rounds import INIT
from ...store.dvc_lock import LOCK
from ...store.paths import ROUND_STAGES, adapter
from ...store.provenance import hash_of
from ...store.reading import read_stage
from . import html
from .run import Run
from .terms import ALGORITHMS, CONSTRUCTIONS

EXPLAINED = {"algo": ALGORITHMS, "pairs": CONSTRUCTIONS}
SHORT = 16  # digits of a hash


def summary(run: Run) -> str:
    """The first lines of the page."""
    images = run.images_seen[run.rounds[-1]]
    about = (
        f"{run.value('model.id')}, trained with {run.value('algo')} on {run.value('pairs')} pairs in "
        f"{len(run.way)} online rounds of sampling, scoring, fusing and training; {images} images were sampled "
        f"and scored up to the last one, {run.rounds[-1]}. Reward: {run.reward}. Made with dfusion "
        f"{run.last.manifest['environment'].get('dfusion', 'of an unknown version')}."
    )
    explained = [kinds[run.value(key)] for key, kinds in EXPLAINED.items() if run.value(key) in kinds]
    parts = [html.paragraph(about, "about"), *map(html.paragraph, (f"{one}." for one in explained))]
    different = [one.row.key for one in run.parameters if one.differs_today]
    if different:
        parts.append(
            html.paragraph(
                f"params.yaml is not what this run was made with: {', '.join(different)} "
                f"{'differ' if len(different) > 1 else 'differs'} today (see the end of this page).",
                "warning",
            )
        )
    if run.unfinished:
        parts.append(html.paragraph(f"Not finished, and not in this report: {', '.join(run.unfinished)}.", "warning"))
    return "".join(parts)


def parameters(run: Run) -> str:
    """Differences of the run's parameters from the paper and from the present params.yaml; all parameters folded."""
    today = [(one.row.key, one.value, json.dumps(one.today)) for one in run.parameters if one.differs_today]
    paper = [(one.row.key, one.value, json.dumps(one.row.default)) for one in run.parameters if one.differs_from_paper]
    every = [(one.row.key, one.row.description, [one.value]) for one in run.parameters]
    parts = [html.heading("Parameters", "Those that the outputs of this run were made with, from their manifests.")]
    if today:
        parts.append("<h3>Where params.yaml is different today</h3>" + html.table(["parameter", "run", "today"], today))
    return "".join(
        [
            *parts,
            "<h3>Where the run differs from the paper</h3>",
            html.table(["parameter", "run", "paper"], paper),
            html.folded(f"All {len(every)} parameters", html.terms(["value"], every)),
        ]
    )


def commit() -> str:
    """The commit with the present dvc.lock, which holds the hashes of all outputs; empty without git and DVC."""
    if not Path(LOCK).is_file():
        return ""
    if _git("rev-parse", "--git-dir") is None:
        return ""
    found = _git("log", "-1", "--format=%h of %cs", "--", LOCK)
    if not found or _git("status", "--porcelain", "--", LOCK):
        return f"not yet: git add {LOCK} params.yaml && git commit"
    return f"{found} ({LOCK})"


def _git(*arguments: str) -> str | None:
    """The output of git; None without git or a repository."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def origin(run: Run) -> str:
    """Versions, digests of the code of each stage, and hashes of the model and the reward."""
    pin = read_pin(adapter(INIT)) or {}
    rows = [
        *([("recorded in git", recorded)] if (recorded := commit()) else []),
        ("model", f"{run.value('model.id')}, revision {pin.get('revision') or 'none'}"),
        ("reward", run.reward),
        *((name, version) for name, version in run.last.manifest["environment"].items()),
    ]
    stages = []
    for stage in ROUND_STAGES:
        made = read_stage(stage, run.rounds[-1]).manifest
        stages.append((stage, hash_of(made["ingredients"]["code"])[:SHORT], made["fingerprint"][:SHORT]))
    return "".join(
        [
            html.heading("Versions and origin", "Of the last round."),
            html.table(["", ""], rows),
            html.paragraph(
                "Code is a digest of the stage's file and of the modules that it imports; the fingerprint holds "
                "this, the parameters and the inputs. 'dfusion verify runs' checks that all files are as they "
                "were written."
            ),
            html.table(["stage", "code", "fingerprint"], stages),
        ]
    )
