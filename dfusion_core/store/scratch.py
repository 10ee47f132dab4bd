"""The scratch folder for work in progress, and leftovers of earlier runs in it.

    <scratch>/<round>/<stage>.lock
    <scratch>/<round>/<stage>/<fingerprint>/  ingredients.json, parts/, state.safetensors, out/

<scratch> is `.dfusion` in the project, or a subfolder for the project in `$DFUSION_SCRATCH`. The project is
`$DVC_ROOT`, else the current folder: DVC deletes outputs before it runs a stage, and inside `dvc exp run --temp` and
queues DVC_ROOT is still the real repository. There each fingerprint has its own folder, so that parallel experiments
do not touch each other's work.

Under DVC a published output stays there as `published/`, as hard links without extra space, until DVC has recorded it
in dvc.lock. If DVC is killed before that, it later deletes the output and runs the stage again, which restores it from
here. The next stage that starts removes it.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import StoreError
from . import atomic
from .lock import Lock
from .manifest import read_manifest
from .paths import RESULTS, RUNS
from .provenance import hash_of
from .schema import WRITTEN_BY
from .verify import check

INGREDIENTS, OUT, PARTS, PUBLISHED = "ingredients.json", "out", "parts", "published"


def scratch_root() -> Path:
    """The folder for this project's work in progress. Raises StoreError if it is in a folder that DVC deletes."""
    given, project = os.environ.get("DFUSION_SCRATCH"), Path(os.environ.get("DVC_ROOT", "."))
    if not given:
        return project / ".dfusion"
    place, root = (project / Path(given).expanduser()).resolve(), project.resolve()
    for outputs in (base / area for base in (root, Path.cwd()) for area in (RUNS, RESULTS)):
        if place.is_relative_to(outputs.resolve()):
            raise StoreError(
                f"store: DFUSION_SCRATCH is {given}, in {outputs.name}/, which DVC deletes and copies.",
                "Set it to a folder outside, or unset it: 'unset DFUSION_SCRATCH'.",
            )
    return place / f"{root.name}-{hash_of(str(root))[:12]}"


def beside_the_repository() -> bool:
    """Whether this is an experiment in a temporary copy: DVC's repository is not the current folder."""
    root = os.environ.get("DVC_ROOT")
    return root is not None and Path(root).resolve() != Path.cwd().resolve()


def saved_ingredients(scratch: Path) -> dict[str, Any]:
    """The ingredients of a fingerprint's folder; empty if unknown."""
    try:
        saved = json.loads((scratch / INGREDIENTS).read_text())
    except (OSError, ValueError):
        return {}
    return saved if isinstance(saved, dict) and hash_of(saved)[:16] == scratch.name else {}


def under_dvc() -> bool:
    """Whether DVC runs this stage."""
    return "DVC_STAGE" in os.environ


def is_finished(scratch: Path, fingerprint: str, beside: bool) -> bool:
    """Whether `out` is a complete output of this fingerprint that was being published, or that DVC has not recorded.

    An output that DVC has recorded is made again if DVC runs the stage (`dvc repro --force`). In experiments in a
    temporary copy the time of dvc.lock has no meaning.
    """
    out, published = scratch / OUT, scratch / PUBLISHED
    if published.is_dir():
        if beside or not _written_since(published):
            atomic.remove_folder(out)
            os.rename(published, out)
        else:
            atomic.remove_folder(published)
    return not check(out, read=True) and read_manifest(out)["fingerprint"] == fingerprint


def _written_since(published: Path) -> bool:
    """Whether DVC has written dvc.lock since then."""
    lock = Path("dvc.lock")
    return lock.exists() and lock.stat().st_mtime_ns > published.stat().st_mtime_ns


def tidy(scratch: Path, keep: bool) -> None:
    """Remove scratch after publication; with `keep` all but the output."""
    if keep:
        os.rename(scratch / OUT, scratch / PUBLISHED)
    if not (scratch / PUBLISHED).is_dir():
        atomic.remove_folder(scratch.parent)
        return
    for path in scratch.iterdir():
        if path.name not in (INGREDIENTS, PUBLISHED):
            atomic.remove_folder(path) if path.is_dir() else path.unlink()


def forget_published(home: Path) -> None:
    """Remove the `published/` of other commands than that of `home`, a `<round>/<stage>`; DVC has recorded these
    outputs.
    """
    for pattern in (f"*/*/*/{PUBLISHED}", f"experiments/*/*/*/*/{PUBLISHED}"):
        for published in scratch_root().glob(pattern):
            other = published.parents[1]
            if _command(other) != _command(home):
                with suppress(StoreError):  # it is running again
                    lock = Lock(other.with_name(f"{other.name}.lock"), other.name)
                    atomic.remove_folder(other)
                    lock.release()


def _command(home: Path) -> tuple[str, str]:
    """The round, and the name of the stage in dvc.yaml."""
    return home.parent.name, WRITTEN_BY.get(home.name, home.name)
