"""Code: digests of the source files on which each stage's result depends; edits of comments do not change them.

reads   stages/, dfusion_core/   writes  results/code/STAGE.json: a digest for each module that the stage imports;
                                         in a project without its own code also results/weights.json
"""

from __future__ import annotations

import json
from pathlib import Path

from dfusion_core.models.builtin import WEIGHTS
from dfusion_core.runtime.entry import run_stage
from dfusion_core.store.atomic import write_text
from dfusion_core.store.code import STAGES, hash_code
from dfusion_core.store.paths import WEIGHTS_RESULT, code_result
from dfusion_core.store.provenance import hash_file

NO_STAGES = ("__init__", "__main__", "code")


def code() -> None:
    """Write the digests of every stage, and of the built-in weights if they are outside the project."""
    for stage in sorted({path.stem for path in STAGES.glob("*.py")}.difference(NO_STAGES)):
        write_text(code_result(stage), json.dumps(hash_code(stage), indent=1, sort_keys=True) + "\n")
    if not WEIGHTS.resolve().is_relative_to(Path.cwd().resolve()):
        files = sorted(path for path in WEIGHTS.rglob("*") if path.is_file())
        digests = {path.relative_to(WEIGHTS).as_posix(): hash_file(path) for path in files}
        write_text(WEIGHTS_RESULT, json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    run_stage(code)
