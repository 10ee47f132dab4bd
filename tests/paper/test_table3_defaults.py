"""Table 3 and Appendix C.1: the defaults in code are the paper's, and params.yaml says where it differs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dfusion_core.params import explain, resolved
from dfusion_core.params.sections import Everything

ROOT = Path(__file__).parents[2]

TABLE_3 = {  # the column D-Fusion
    "sample.num_steps": 20,  # denoising steps T
    "sample.eta": 1.0,  # noise weight
    "sample.guidance_scale": 5.0,
    "sample.batch_size": 4,
    "fuse.layers": ["mid", "up_1", "up_2", "up_3"],  # 3-6, counted down_0, down_1, down_2, mid, up_1, up_2, up_3
    "fuse.first_t": 18,
    "fuse.last_t": 1,
    "adopt.threshold": 1.0,
    "train.optimizer": "adamw",
    "train.learning_rate": 1e-4,
    "train.weight_decay": 1e-4,
    "train.betas": [0.9, 0.999],
    "train.epsilon": 1e-8,
    "train.clip_norm": 1.0,
    "train.pairs_per_update": 320,  # accumulation steps, at batch size 1
    "train.inner_epochs": 2,
}
ELSEWHERE = {
    "algo": "dpo",
    "pairs": "dfusion",
    "adopt.enabled": True,
    "adopt.fallback": "reference",  # Section 4.3
    "sample.maps": "up_1",  # Section 4.1: cross-attention of the first up-sampling layer
    "extract.merge": "xor",  # Eq. (4)
    "extract.threshold": "absolute",  # Tables 4-6
    "pairing.mode": "halves",  # Algorithm 1
    "train.dpo_form": "ratio",
    "train.timestep_weight": "none",  # Eq. (6)
    "train.dpok_alpha": 0.99,
    "train.dpok_beta": 0.01,  # Eq. (9), appendix C
    "train.first_t": None,
    "train.last_t": 1,  # Algorithm 1: every timestep is trained on
    "reward.model": "ViT-H-14",
    "reward.pretrained": "laion2b_s32b_b79k",
}
KNOWN = TABLE_3 | ELSEWHERE


@pytest.mark.parametrize("key", TABLE_3)
def test_defaults_are_those_of_table_3(key: str) -> None:
    row = {one.key: one for one in explain()}[key]
    assert row.default == TABLE_3[key]
    assert row.paper != "ours"


def test_what_is_said_to_be_from_the_paper_is() -> None:
    assert {row.key: row.default for row in explain() if row.paper != "ours"} == KNOWN


def test_a_round_has_640_images_and_320_pairs() -> None:
    """Batch size 4, batch count 160; 40 prompts. All pairs of a round make one optimizer step."""
    everything = Everything()
    images = 40 * everything.sample.images_per_prompt
    assert images == 4 * 160
    assert images // 2 == everything.train.pairs_per_update


def test_params_yaml_says_where_it_differs() -> None:
    """`# paper: 320` beside every value of params.yaml that is not the paper's."""
    for row, value in resolved(ROOT / "params.yaml"):
        if row.key in KNOWN and value != row.default:
            said = re.search(r"#.*paper: (\[.*?\]|[^\s;,]+)", line_of(row.key))
            assert said and as_value(said[1]) == row.default, row.key


def line_of(key: str) -> str:
    """The line of params.yaml that sets a key."""
    *section, name = key.split(".")
    text = (ROOT / "params.yaml").read_text()
    if section:
        text = text.split(f"\n{section[0]}:", 1)[1]
    found = re.search(rf"^ *{name}:.*$", text, re.MULTILINE)
    assert found
    return found[0]


def as_value(text: str) -> Any:
    if text.startswith("["):
        return text.strip("[]").split(", ")
    try:
        return float(text)
    except ValueError:
        return text
