"""The reward: its model, and its scores."""

from __future__ import annotations

from .facts import Facts
from .findings import Finding, failed, ok, warning

# micro-clip's CLIPScore of `draw_prompt(KNOWN_PROMPT)`; computed on an x86 CPU in fp32 when the
# weights were committed.
KNOWN_PROMPT, KNOWN_SCORE = "a heart holding a balloon", 0.9227
KNOWN_TOLERANCE = 2e-3  # other processors round differently
SAME = 1e-4  # between a picture alone and in a batch


def reward(facts: Facts) -> Finding:
    """The reward's models can be loaded."""
    from ...rewards.identity import describe
    from ...rewards.scoring import load_reward

    facts.reward = load_reward(facts.params.reward, facts.device)
    found, sample = describe(facts.reward.identity()), facts.params.sample
    cut = facts.reward.margins_cut(sample.height, sample.width) if sample.height and sample.width else ""
    if cut:
        return warning(f"{found}; {cut}", "Set sample.height and sample.width to one value, or trust the middle.")
    return ok(found)


def scores(facts: Facts) -> Finding:
    """A drawn picture gets the known score of micro-clip; of any model: the same score twice, alone and in a batch."""
    import numpy as np

    from ...models.builtin import MICRO_CLIP, draw_prompt

    shown = draw_prompt(KNOWN_PROMPT)
    batch = np.stack([shown, 255 - shown, shown[::-1], shown])
    texts = [KNOWN_PROMPT] * len(batch)
    once, again = (facts.reward(batch, texts).reward for _ in range(2))
    clip = facts.reward.clip
    cosine = (clip.embed_pictures(batch) * clip.embed_prompts(texts)).sum(dim=1)
    alone = facts.reward(shown[None], texts[:1]).reward[0]
    score, apart = float(cosine[0]), float(np.abs(once - alone)[[0, 3]].max())
    if not np.isfinite(once).all() or not float(cosine.abs().max()) <= 1 + SAME:
        return failed(f"scores are not cosines: {cosine.tolist()}", "Get the reward model's files once more.")
    twice = float(np.abs(once - again).max())
    if twice or apart > SAME:
        return failed(
            f"a picture gets different scores: {twice:.2g} apart in the same batch twice, {apart:.2g} alone "
            "and in a batch",
            "Set reward.batch_size to 1, or leave out the plug-in that does it.",
        )
    if facts.params.reward.model == MICRO_CLIP and abs(score - KNOWN_SCORE) > KNOWN_TOLERANCE:
        return failed(
            f"the known picture scores {score:.4f} and not {KNOWN_SCORE}",
            "Install the package anew: its reward model is damaged.",
        )
    known = (
        f"the known picture scores {score:.4f}, as it should"
        if facts.params.reward.model == MICRO_CLIP
        else (f"a test picture scores {score:.4f} (no known score for this model)")
    )
    return ok(f"{known}; the same twice, alone and in a batch ({apart:.1g} apart)")
