"""Which command makes an output, and which brings a damaged one back."""

from pathlib import Path

from .schema import WRITTEN_BY

UNCACHED = ("kv",)  # `cache: false` in dvc.yaml: DVC has no copy


def how_to_make(path: Path) -> str:
    """The command that writes `runs/<round>/<stage>`, as a hint; empty for a path of another kind."""
    parts = _below_runs(path)
    if parts[:1] == ("init",):
        return f"Make it with 'dvc repro -s {dvc_stage('init', parts[-1])}'."
    if len(parts) >= 2:
        return f"Make it with 'dvc repro -s {dvc_stage(*parts[:2])}', or fetch it with 'dvc pull'."
    return ""


def how_to_mend(path: Path) -> str:
    """The commands that bring a damaged `runs/<round>/<stage>` back, as a hint; empty for a path of another kind."""
    parts = _below_runs(path)
    if len(parts) < 2:
        return ""
    folder = Path(*path.parts[: len(path.parts) - len(parts) + 2])
    again = f"ake it again with 'dvc repro -f -s {dvc_stage(*parts[:2])}'."
    if parts[1] in UNCACHED:
        return f"M{again}"
    return f"Bring it back with 'rm -r {folder}' and 'dvc checkout {folder}' if DVC has it, or m{again}"


def dvc_stage(round: str, stage: str) -> str:
    """The name in dvc.yaml of the stage that writes `runs/<round>/<stage>`."""
    if round == "init":
        return "evaluate_base" if stage == "evaluate" else "init"
    return f"{WRITTEN_BY.get(stage, stage)}@{round}"


def _below_runs(path: Path) -> tuple[str, ...]:
    return path.parts[path.parts.index("runs") + 1 :] if "runs" in path.parts else ()
