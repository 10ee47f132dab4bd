"""Prompts: the texts and items of the prompts that are used, without their thresholds.

reads   the prompt file   writes  results/prompts.json
"""

from __future__ import annotations

import json

from dfusion_core.params import load_params
from dfusion_core.prompts.texts import texts_of
from dfusion_core.runtime.entry import run_stage
from dfusion_core.store.atomic import write_text
from dfusion_core.store.paths import PROMPTS_RESULT


def prompts() -> None:
    """Write the part of the prompt file on which the stages that sample depend."""
    texts = texts_of(load_params("prompts").prompts)
    write_text(PROMPTS_RESULT, json.dumps(texts, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    run_stage(prompts)
