"""The folder for work in progress: where it is, and what earlier runs left in it.

    <scratch>/<round>/<stage>.lock
    <scratch>/<round>/<stage>/<fingerprint>/  ingredients.json, parts/, state.safetensors, out/

<scratch> is `.dfusion` in the project, or a folder of the project's own in `$DFUSION_SCRATCH`. The project is
`$DVC_ROOT`, else the current folder: DVC deletes outputs before it runs a stage, and inside `dvc exp run --temp` and
queues DVC_ROOT is still the real repository. There each fingerprint has a home of its own, so that experiments side by
side leave each other's work alone.

Under DVC a published output stays there as `published/`, which takes no space of its own: its files are further names
of those in `runs`. It is for the moment between the end of a stage and DVC's note of it in dvc.lock. If DVC is killed
then, it later deletes the output and runs the stage again, which finds it here. The next stage that starts removes it.
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
    """The folder for this project's work in progress. Raises StoreError if it would lie among what DVC deletes."""
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
    """Whether this is an experiment in a folder of its own: DVC's repository is not the current folder."""
    root = os.environ.get("DVC_ROOT")
    return root is not None and Path(root).resolve() != Path.cwd().resolve()


def saved_ingredients(scratch: Path) -> dict[str, Any]:
    """What decided the work in a fingerprint's folder; empty where that is not known."""
    try:
        saved = json.loads((scratch / INGREDIENTS).read_text())
    except (OSError, ValueError):
        return {}
    return saved if isinstance(saved, dict) and hash_of(saved)[:16] == scratch.name else {}


def under_dvc() -> bool:
    """Whether DVC runs this stage."""
    return "DVC_STAGE" in os.environ


def is_finished(scratch: Path, fingerprint: str, beside: bool) -> bool:
    """Whether `out` is a whole output of this fingerprint: it was being published, or DVC did not get to note it.

    What DVC has noted is made again when DVC asks for it (`dvc repro --force`). Experiments in a folder of their own
    begin with a dvc.lock that says nothing about when.
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
    """After publication remove what is left; with `keep` all but the output."""
    if keep:
        os.rename(scratch / OUT, scratch / PUBLISHED)
    if not (scratch / PUBLISHED).is_dir():
        atomic.remove_folder(scratch.parent)
        return
    for path in scratch.iterdir():
        if path.name not in (INGREDIENTS, PUBLISHED):
            atomic.remove_folder(path) if path.is_dir() else path.unlink()


def forget_published(home: Path) -> None:
    """Remove what other commands than that of `home`, a `<round>/<stage>`, have kept: DVC has noted it by now."""
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
