"""Comparison of dvc.lock with the manifests of outputs.

They differ if DVC has recorded parameters, inputs or code that were edited while the stage ran, or has restored such an
output from its run cache. Outputs that DVC itself finds changed ('dvc status') are not reported.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import StoreError
from .hints import dvc_stage
from .manifest import MANIFEST, read_manifest
from .paths import PROMPTS_RESULT
from .provenance import differing, flat, hash_file, hash_of, shown

LOCK = "dvc.lock"


def require_agreement(stage: str, outputs: Iterable[Path]) -> None:
    """Raise StoreError if dvc.lock has other parameters for an input than its manifest."""
    for folder in outputs:
        for what in disagreements(folder, deep=False):
            raise StoreError(f"{stage}: {folder} {what}.", mend(folder))


def mend(folder: Path) -> str:
    """The command that makes dvc.lock and an output agree. A checkout would restore the same output."""
    made = read_manifest(folder)["ingredients"]
    return f"Make it again with 'dvc repro -f -s {dvc_stage(made['round'], made['stage'])}'."


def disagreements(folder: Path, deep: bool = True) -> list[str]:
    """Differences between dvc.lock and the manifest of a published folder; `deep` compares inputs and code as well.

    Empty if there is no dvc.lock, or if the folder is not the recorded output.
    """
    made = read_manifest(folder)["ingredients"]
    project = folder.absolute().parents[2]
    entry = read_entry(project / LOCK, dvc_stage(made["round"], made["stage"]))
    found = list(_other_values(entry, made, project, deep)) if entry else []
    path = Path("runs", *folder.absolute().parts[-2:]).as_posix()
    return found if found and dict(_hashes(entry, "outs")).get(path) == md5_of(folder) else []


def read_entry(lock: Path, name: str) -> dict[str, Any]:
    """The entry of one stage in dvc.lock; empty if there is none. Only its lines are parsed, because the file grows."""
    try:
        text = lock.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return {}
    block = re.search(rf"^  {re.escape(name)}:\n((?:    .*\n?)*)", text, re.MULTILINE)
    if block is None:
        return {}
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        entry = YAML(typ="safe").load(block[1])
    except YAMLError:
        return {}
    return entry if isinstance(entry, dict) else {}


def md5_of(path: Path) -> str | None:
    """DVC's hash of a file or folder; None if it does not exist."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if not path.is_dir():
        return None
    files = sorted(one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file())
    listing = json.dumps([{"md5": md5_of(path / name), "relpath": name} for name in files], sort_keys=True)
    return f"{hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest()}.dir"


def _other_values(entry: Mapping[str, Any], made: Mapping[str, Any], project: Path, deep: bool) -> Iterator[str]:
    for key, (locked, run) in _other_params(_mapping(_mapping(entry.get("params")).get("params.yaml")), made["params"]):
        yield f"was made with {key} = {shown(run)}, and {LOCK} says {shown(locked)}"
    for dep, md5 in _hashes(entry, "deps") if deep else ():
        path, name = project / dep, _input_of(dep)
        recorded = made["code"] if name == "code" else made["inputs"].get(name)
        if recorded is not None and md5_of(path) == md5 and _is_other(path, recorded):
            yield f"was made with another {dep} than {LOCK} says"


def _hashes(entry: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Any]]:
    """Path and hash of each of the `deps` or `outs`; malformed entries are skipped."""
    listed = entry.get(kind)
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, dict) and isinstance(one.get("path"), str) and one["path"]:
            yield one["path"], one.get("md5")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_other(path: Path, recorded: Any) -> bool:
    """Whether an input, or a file that stands for an input or the code, differs from what a manifest recorded.

    A file that DVC has recorded and that cannot be read differs too.
    """
    try:
        if path.suffix == ".json":
            noted = json.loads(path.read_text(encoding="utf-8"))
            return bool(recorded not in (noted, hash_of(noted), hash_file(path)))
        if path.is_dir() and not (path / MANIFEST).is_file():  # read whole, not an output of a stage
            return False
        return bool((read_manifest(path)["digest"] if path.is_dir() else hash_file(path)) != recorded)
    except (OSError, ValueError, StoreError):
        return True


def _other_params(locked: Mapping[str, Any], made: Mapping[str, Any]) -> list[tuple[str, tuple[Any, Any]]]:
    """Common keys whose values differ. dvc.lock has the values of params.yaml; defaults are filled in.

    If this program does not accept the values, as those of another version, only keys that both have are compared.
    """
    from pydantic import ValidationError

    from ..params.sections import Everything
    from ..params.selection import Params

    both = {name: value for name, value in locked.items() if name in made and value is not None}
    try:
        whole = Everything.model_validate_json(json.dumps(both, default=str))
    except ValidationError:
        ours, theirs = flat(both), flat(made)
        common = ours.keys() & theirs.keys()
        return list(differing({key: ours[key] for key in common}, {key: theirs[key] for key in common}))
    values = Params(**{name: getattr(whole, name) for name in both}).as_dict()
    return list(differing(flat(values), flat({name: made[name] for name in both})))


def _input_of(path: str) -> str:
    """The name under which a manifest has a dependency of dvc.yaml."""
    parts = Path(path).parts
    if parts[:2] == ("results", "code"):
        return "code"
    if parts[0] == "runs":
        return {"train": "adapter"}.get(parts[-1], "base" if parts[1:] == ("init", "evaluate") else parts[-1])
    if Path(path) == PROMPTS_RESULT:
        return "texts"
    return "prompts" if Path(path).suffix in (".yaml", ".yml", ".txt", ".csv", ".json", ".jsonl") else path
