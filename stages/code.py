"""Code: what of the program decides the result of each stage, as digests that an edit of a comment leaves alone.

reads   stages/, dfusion_core/   writes  results/code/STAGE.json: a digest for each module that the stage imports
"""

from __future__ import annotations

import json

from dfusion_core.runtime.entry import run_stage
from dfusion_core.store.atomic import write_text
from dfusion_core.store.code import STAGES, hash_code
from dfusion_core.store.paths import code_result

NO_STAGES = ("__init__", "__main__", "code")


def code() -> None:
    """Write the digests of every stage."""
    for stage in sorted({path.stem for path in STAGES.glob("*.py")}.difference(NO_STAGES)):
        write_text(code_result(stage), json.dumps(hash_code(stage), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    run_stage(code)
