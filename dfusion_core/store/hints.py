"""Which command makes an output, and which brings a damaged one back."""

from pathlib import Path

from .schema import WRITTEN_BY

RESULT_OF = {"rounds": "evaluate", "pairs": "adopt", "training": "train"}  # results/<kind>/<round>.json


def how_to_make(path: Path) -> str:
    """The command that writes `runs/<round>/<stage>`, as a hint; empty for a path of another kind."""
    parts = _below("runs", path)
    if parts[:1] == ("init",):
        return f"Make it with 'dvc repro -s {dvc_stage('init', parts[-1])}'."
    if len(parts) >= 2:
        return f"Make it with 'dvc repro -s {dvc_stage(*parts[:2])}', or fetch it with 'dvc pull'."
    return ""


def how_to_mend(path: Path) -> str:
    """The commands that bring a damaged `runs/<round>/<stage>` or `results/<kind>/<round>.json` back, as a hint.

    `path` may lie inside; for one of another kind the hint is empty.
    """
    run, result = _below("runs", path), _below("results", path)
    if len(run) >= 2:
        output, stage = Path(*path.parts[: len(path.parts) - len(run) + 2]), dvc_stage(*run[:2])
    elif len(result) == 2 and result[0] in RESULT_OF:
        output, stage = path, dvc_stage(path.stem, RESULT_OF[result[0]])
    else:
        return ""
    return (
        f"Bring it back with 'rm -r {output}' and 'dvc checkout {output}' if DVC has it, "
        f"or make it again with 'dvc repro -f -s {stage}'. If it comes back damaged: 'dfusion verify .dvc/cache'."
    )


def dvc_stage(round: str, stage: str) -> str:
    """The name in dvc.yaml of the stage that writes `runs/<round>/<stage>`."""
    if round == "init":
        return "evaluate_base" if stage == "evaluate" else "init"
    return f"{WRITTEN_BY.get(stage, stage)}@{round}"


def _below(name: str, path: Path) -> tuple[str, ...]:
    return path.parts[path.parts.index(name) + 1 :] if name in path.parts else ()
