"""The working folder: space, permission, locks, DVC."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import StoreError, one_line
from ..init.writing import PIPELINE, project_files
from .facts import Facts, listed
from .findings import Finding, failed, ok, warning

if TYPE_CHECKING:
    from dvc.repo import Repo

GIB = 2**30
LEAST, LITTLE = GIB // 4, 2 * GIB  # bytes: too little for any run; for small models only


def space(_: Facts) -> Finding:
    """Stages can write their outputs and their scratch folder, and there is enough space."""
    from ...store import scratch_root
    from ...store.paths import RESULTS, RUNS

    for folder in (Path(), RUNS, RESULTS, scratch_root()):
        if problem := unwritable(folder):
            return failed(
                f"{folder.absolute()}: {problem}",
                "Work in a folder that you may write to, with no file of "
                "that name; DFUSION_SCRATCH moves the scratch folder.",
            )
    free = shutil.disk_usage(Path()).free
    if free < LEAST:
        return failed(f"{free / GIB:.1f} GiB free", "Make room; 'dfusion plan' says how much a run needs.")
    if free < LITTLE:
        return warning(f"{free / GIB:.1f} GiB free", "See 'dfusion plan' for what a run needs.")
    return ok(f"{free / GIB:.1f} GiB free; outputs and the scratch folder can be written")


def unwritable(folder: Path) -> str:
    """Why no file can be written to the folder, or to its nearest existing parent; empty if one can."""
    absolute = folder.absolute()
    existing = next(one for one in (absolute, *absolute.parents) if os.path.lexists(one))
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".dfusion-doctor-"):
            return ""
    except OSError as error:
        return f"nothing can be written: {one_line(error)}"


def locks(_: Facts) -> Finding:
    """A lock excludes a second writer, which some network file systems do not support."""
    from ...store import scratch_root
    from ...store.lock import Lock

    root = scratch_root().absolute()
    existing = next(one for one in (root, *root.parents) if one.exists())
    remedy = "Set DFUSION_SCRATCH to a folder on a local disk."
    with tempfile.TemporaryDirectory(dir=existing, prefix=".dfusion-doctor-") as folder:
        try:
            first = Lock(Path(folder, "lock"), "doctor")
        except OSError as error:
            return failed(f"there are no file locks in {existing}: {one_line(error)}", remedy)
        try:
            Lock(Path(folder, "lock"), "doctor").release()
        except StoreError:
            return ok("a second writer is kept out")
        finally:
            first.release()
    return failed(f"a lock in {existing} does not keep a second writer out", remedy)


def dvc(_: Facts) -> Finding:
    """A DVC repository exists, its cache can be linked to the workspace, and it sends no statistics."""
    from dvc.analytics import is_enabled
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        repo = Repo(os.environ.get("DVC_ROOT"))
    except NotDvcRepoError:
        remedy = "git init && dvc init" if Path(PIPELINE).is_file() else "dfusion init ."
        return warning("no DVC repository here: stages run one by one only", remedy)
    with repo:
        kind = link_type(repo)
    if is_enabled():
        return warning("DVC sends usage statistics", "dvc config core.analytics false")
    if kind == "copy":
        return ok(
            "cache linked by copy: every output is on the disk twice",
            "To save space: dvc config cache.type reflink,hardlink,symlink",
        )
    return ok(f"cache linked by {kind}")


def pipeline(_: Facts) -> Finding:
    """In a project that runs the installed package, dvc.yaml has the stages that this version writes."""
    from ...params.strict_yaml import parse_yaml, read_yaml

    if not Path(PIPELINE).is_file():
        return ok("none here: stages run one by one only")
    if Path("dfusion_core").is_dir():
        return ok("the repository's own")
    remedy = f"mv {PIPELINE} {PIPELINE}.old && dfusion init ."
    try:
        theirs = read_yaml(Path(PIPELINE))["stages"]
    except (ValueError, TypeError, KeyError) as error:
        return failed(f"it cannot be read: {one_line(error)}", remedy)
    ours = parse_yaml(project_files()[PIPELINE])["stages"]
    if other := [name for name, stage in ours.items() if (theirs or {}).get(name) != stage]:
        return warning(
            f"the stages {listed(other)} are not those of this version: results may be made from old inputs",
            remedy,
        )
    return ok("as this version writes it")


def link_type(repo: Repo) -> str:
    """The first of DVC's configured link types that works between its cache and the workspace; copy always does."""
    from dvc_objects.fs import generic

    cache = repo.cache.local
    # The test writes its file beside what it is given.
    works = generic.test_links(list(cache.cache_types), cache.fs, cache.path, repo.fs, os.path.join(repo.root_dir, "x"))
    return str(next(iter(works), "copy"))
