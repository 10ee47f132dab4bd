"""The commands that make an output, or restore a damaged one."""

import os
import re
from pathlib import Path
from shlex import quote

from .paths import ROUND_STAGES
from .schema import WRITTEN_BY

ROUND = r"init|r\d{2,6}"
OUTPUTS = (*ROUND_STAGES, *WRITTEN_BY)
OF_A_PROJECT = ("params.yaml", "dvc.yaml", ".dvc", ".git")
RESULT_OF = {"rounds": "evaluate", "pairs": "adopt", "training": "train"}  # results/<kind>/<round>.json


def how_to_make(path: Path) -> str:
    """The command that writes `runs/<round>/<stage>`, as a hint; empty for a path of another kind."""
    found = _output(path)
    if found is None:
        return "Make it with 'dvc repro -s init'." if path.parts[-2:] == ("runs", "init") else ""
    _, round, stage = found
    fetched = ", or fetch it with 'dvc pull'" if round != "init" and has_remote() else ""
    return f"Make it with 'dvc repro -s {dvc_stage(round, stage)}'{fetched}."


def how_to_remake(path: Path) -> str:
    """The command that makes an existing `runs/<round>/<stage>` again, as a hint."""
    found = _output(path)
    return f"Make it again with 'dvc repro -f -s {dvc_stage(found[1], found[2])}'." if found else ""


def how_to_mend(path: Path) -> str:
    """The commands that restore a damaged `runs/<round>/<stage>` or `results/<kind>/<round>.json`, as a hint.

    `path` may be inside; for other paths the hint is empty. Commands name no other file or folder.
    """
    found = _output(path) or _result(path)
    if found is None:
        return ""
    output, round, stage = found
    where = quote(f"./{output}" if str(output).startswith("-") else str(output))
    return (
        f"Bring it back with {command(f'rm -r {where}')} and {command(f'dvc checkout {where}')} if DVC has it, or make "
        f"it again with 'dvc repro -f -s {dvc_stage(round, stage)}'. If it comes back damaged: "
        "'dfusion verify .dvc/cache'."
    )


def has_remote() -> bool:
    """Whether DVC has a remote, so that 'dvc pull' is possible."""
    roots = [Path(os.environ["DVC_ROOT"])] if os.environ.get("DVC_ROOT") else [Path.cwd(), *Path.cwd().parents]
    dvc = next((root / ".dvc" for root in roots if (root / ".dvc").is_dir()), None)
    files = [dvc / "config", dvc / "config.local"] if dvc else []
    files += [Path.home() / ".config/dvc/config", Path("/etc/xdg/dvc/config")]
    return any(
        re.search(r"""^\s*\[\s*'?remote\b""", file.read_text(errors="replace"), re.MULTILINE)
        for file in files
        if file.is_file()
    )


def command(line: str) -> str:
    """A shell command in quotation marks that it does not contain."""
    return f"`{line}`" if "'" in line else f"'{line}'"


def dvc_stage(round: str, stage: str) -> str:
    """The name in dvc.yaml of the stage that writes `runs/<round>/<stage>`."""
    if round == "init":
        return "evaluate_base" if stage == "evaluate" else "init"
    return f"{WRITTEN_BY.get(stage, stage)}@{round}"


def is_place_of_output(folder: Path) -> bool:
    """Whether a folder has the name of an output, `runs/<round>/<stage>`, and is not a project."""
    found = _output(folder.absolute())
    return found is not None and found[0] == folder.absolute()


def _output(path: Path) -> tuple[Path, str, str] | None:
    """The folder `runs/<round>/<stage>` that `path` is or is in, with round and stage: the last such in the path,
    because a project may itself be below a folder `runs`.
    """
    for number in reversed(range(len(path.parts) - 2)):
        area, round, stage = path.parts[number : number + 3]
        folder = Path(*path.parts[: number + 3])
        if area == "runs" and re.fullmatch(ROUND, round) and stage in OUTPUTS:
            return None if any((folder / mark).exists() for mark in OF_A_PROJECT) else (folder, round, stage)
    return None


def _result(path: Path) -> tuple[Path, str, str] | None:
    """`results/<kind>/<round>.json`, its round and the stage that writes it."""
    area, kind = (["", ""] + list(path.parts[:-1]))[-2:]
    if area == "results" and kind in RESULT_OF and re.fullmatch(ROUND, path.stem):
        return path, path.stem, RESULT_OF[kind]
    return None
