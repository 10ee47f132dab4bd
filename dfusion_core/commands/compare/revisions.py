"""The published evaluation of a revision or an experiment, fetched through DVC into a folder.

The folder looks like a project: params.yaml, the manifests of all stages, and the evaluations that are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import CompareError, did_you_mean, one_line
from ...params import load_params
from ...params.rounds import INIT, in_order
from ...store.hints import dvc_stage
from ...store.manifest import MANIFEST
from ...store.paths import ROUND_STAGES, output

PARAMS = "params.yaml"


def fetch_revision(revision: str, round: str, folder: Path, known: Sequence[str]) -> str:
    """Write the compared files of a revision to ``folder``; returns the requested round, or the last one.

    known: other names, for a message about an unknown one. Raises CompareError.
    """
    fs, inside = _open(revision, known)
    _copy(fs, inside / PARAMS, folder / PARAMS, revision)
    with chdir(folder):
        rounds = in_order(load_params("rounds"))
    wanted = round or (rounds[-1] if rounds else INIT)
    for name in (INIT, *(rounds[: rounds.index(wanted) + 1] if wanted in rounds else [wanted])):
        for stage in ("train", "evaluate") if name == INIT else ROUND_STAGES:
            manifest = output(stage, name) / MANIFEST
            if fs.exists(str(inside / manifest.as_posix())):
                _copy(fs, inside / manifest.as_posix(), folder / manifest, revision)
    for name in dict.fromkeys((INIT, wanted)):
        _copy_evaluation(fs, inside, folder, revision, name)
    return wanted


def experiments() -> list[str]:
    """The names of this repository's experiments; none without DVC."""
    try:
        from dvc.repo import Repo

        with Repo() as repo:
            return [name for _, found in repo.experiments.ls().items() for name, _ in found]
    except Exception:  # of git, DVC or a file: the list is only for a hint
        return []


def _open(revision: str, known: Sequence[str]) -> tuple[Any, PurePosixPath]:
    """DVC's file system at a revision, and the path of this project in it."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    here = Path.cwd()
    root = next((one for one in (here, *here.parents) if (one / ".dvc").is_dir()), None)
    if root is None:
        raise CompareError(
            f"compare: '{revision}' is no round and no folder with runs in it; this is no DVC project.",
            "Name rounds of this project, as r00, or folders of projects.",
        )
    try:
        fs = DVCFileSystem(url=str(root), rev=revision)
        assert fs.repo  # opened at its first use
        return fs, PurePosixPath(here.relative_to(root).as_posix())
    except DvcException as error:
        names = [*known, *experiments()]
        raise CompareError(
            f"compare: '{revision}' is no round, no folder with runs in it, no experiment and no revision: "
            f"{one_line(error)}.",
            did_you_mean(revision, names) or "'dvc exp list' names the experiments.",
        ) from error


def _copy_evaluation(fs: Any, inside: PurePosixPath, folder: Path, revision: str, round: str) -> None:
    place = output("evaluate", round)
    source = str(inside / place.as_posix())
    files = [name for name in fs.find(source) if name != source] if fs.exists(source) else []
    if not files:
        raise CompareError(
            f"compare: '{revision}' has no evaluation of {round}: it records no {place}, or DVC's cache lacks it.",
            how_to_have(revision, dvc_stage(round, "evaluate")),
        )
    for name in files:
        _copy(fs, PurePosixPath(name), folder / place / PurePosixPath(name).relative_to(source), revision)


def _copy(fs: Any, source: PurePosixPath, target: Path, revision: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        fs.get_file(str(source), str(target))
    except Exception as error:  # of git, the cache, or a remote
        why = one_line(error) or type(error).__name__
        raise CompareError(f"compare: '{revision}': {source} cannot be read: {why}.", how_to_have(revision)) from error


def how_to_have(revision: str, stage: str = "") -> str:
    """The commands that fetch a revision's outputs to DVC's cache, as a hint."""
    repro = f"'dvc repro {stage}'".replace(" '", "'")
    if revision in experiments():
        return f"Make it again with 'dvc exp apply {revision}', then {repro}."
    return (
        f"What another machine made comes with 'dvc pull'. Else make it: 'git checkout {revision}', then {repro}, "
        "and commit the dvc.lock that it writes: 'git add dvc.lock', 'git commit'."
    )
