"""Where the items of a prompt are, step by step: the paper's Figure 10 for one reference of a round."""

from __future__ import annotations

import numpy as np

from ...evaluation.sheets import grey
from ...params.sections import Everything
from ...prompts.reading import load_prompts
from ...store.reading import read_stage
from . import html


def maps(round: str, everything: Everything) -> str:
    """The first pair's reference: per item a picture of its cross-attention at each timestep, and M_t below."""
    pair = read_stage("extract", round).table("pairs").iloc[0]
    sampled = read_stage("sample", round)
    items = {prompt.text: prompt.items for prompt in load_prompts(everything.prompts.file).train}[pair.prompt]
    found = sampled.rows("cross_map", [pair.reference_image])[0]
    mask = read_stage("extract", round).rows("mask", [pair.reference])[0]
    steps = len(found)
    parts = [
        html.heading(f"Cross-attention by timestep, {round}", "The paper's Figure 10. White is the largest value of a "
                     "row; the last row is the mask M_t that fusion uses."),
        f'<div class="pair"><div>{html.text(pair.prompt)}</div>',
        html.image(sampled.rows("picture", [pair.reference_image])[0], "reference"), "</div>"]
    lines = [*((item, found[:, k]) for k, item in enumerate(items)), ("mask", mask.astype(np.float32))]
    for name, line in lines:
        pictures = (html.image(picture, f"t = {steps - i}") for i, picture in enumerate(grey(line)))
        parts.append(f'<h3>{html.text(name)}</h3><div class="steps">{"".join(pictures)}</div>')
    return "".join(parts)
