"""The files of a new project. Existing files are kept; another dvc.yaml is an error."""

from __future__ import annotations

from pathlib import Path

from ...errors import ProjectError
from ...store.atomic import write_text
from ..profile import FOLDER as PROFILES

PACKAGE = Path(__file__).parents[2]
TEMPLATE = Path(__file__).parent / "template"
IGNORED = (".gitignore", ".dvcignore")  # files to which missing lines are added
PIPELINE = "dvc.yaml"
TEMPLATES = {PIPELINE: "pipeline.yaml"}  # not named dvc.yaml: DVC runs every dvc.yaml of a clone


def project_files() -> dict[str, str]:
    """Every file of a new project, by its path."""
    prompts = sorted((PACKAGE / "prompts").glob("*.yaml"))
    params = (PROFILES / "micro.yaml").read_text(encoding="utf-8")
    return {
        **{name: _template(TEMPLATES.get(name, name.removeprefix("."))) for name in (*IGNORED, PIPELINE)},
        "params.yaml": params.replace("file: dfusion_core/prompts/", "file: prompts/"),
        "labels/README.md": _template("labels.md"),
        **{f"prompts/{path.name}": path.read_text(encoding="utf-8") for path in prompts},
    }


def _template(name: str) -> str:
    return (TEMPLATE / name).read_text(encoding="utf-8")


def write_files(folder: Path) -> list[str]:
    """Write missing files to `folder`; returns lines that say what was done.

    Raises ProjectError, before anything is written, if there is another dvc.yaml.
    """
    files = project_files()
    there = folder / PIPELINE
    if there.exists() and there.read_bytes() != files[PIPELINE].encode():
        raise ProjectError(
            f"init: {there} is there already and is not what this version writes; nothing was written.",
            f"Choose another folder. If an older dfusion wrote it: 'mv {PIPELINE} {PIPELINE}.old' there, and again.",
        )
    written = [name for name, text in files.items() if name not in IGNORED and _write(folder / name, text)]
    written += [name for name in IGNORED if _add_lines(folder / name, files[name])]
    kept = [name for name in files if name not in written]
    lines = [f"{folder}: {', '.join(sorted(written))}."] if written else []
    return [*lines, f"{folder}: kept as they were: {', '.join(sorted(kept))}."] if kept else lines


def _write(path: Path, text: str) -> bool:
    """Write a file if it is missing; returns whether it was."""
    if path.exists():
        return False
    write_text(path, text)
    return True


def _add_lines(path: Path, text: str) -> bool:
    """Add missing lines to a file; returns whether any were missing."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    new = [line for line in text.splitlines() if line not in old.splitlines()]
    if new:
        write_text(path, "\n".join([*old.splitlines(), *new]) + "\n")
    return bool(new)
