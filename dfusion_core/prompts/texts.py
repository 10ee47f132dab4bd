"""The part of a prompt file on which images depend: texts and items of the prompts that are used, without thresholds.

Stages that sample depend on these and not on the bytes of the file, so that another threshold reruns only ``extract``
and later stages. Under DVC the stage ``prompts`` writes them to ``results/prompts.json``, which DVC compares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..store.derived import Derived
from ..store.paths import PROMPTS_RESULT
from ..store.provenance import hash_of
from .reading import load_prompts

if TYPE_CHECKING:
    from ..params.sections import Prompts


def texts_of(prompts: Prompts) -> dict[str, list[dict[str, Any]]]:
    """Text and items of the prompts that are used, as plain JSON, by the name of their list. Raises PromptsError."""
    chosen = load_prompts(prompts.file).first(prompts.train_count, prompts.test_count)
    return {
        name: [{"prompt": one.text, "items": list(one.items)} for one in part]
        for name, part in (("train", chosen.train), ("test", chosen.test))
    }


def texts_input(prompts: Prompts) -> Derived:
    """The texts as an input of a stage, read again for each digest."""
    return Derived(lambda: hash_of(texts_of(prompts)), noted=PROMPTS_RESULT, written_by="prompts")
