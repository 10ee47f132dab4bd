"""The reward: which model it is, and whether it scores as it should."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .facts import Facts
from .findings import Finding, failed, ok

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# micro-clip's CLIPScore of `draw_prompt(KNOWN_PROMPT)`; computed on an x86 CPU in fp32 when the
# weights were committed.
KNOWN_PROMPT, KNOWN_SCORE = "a heart holding a balloon", 0.9227
KNOWN_TOLERANCE = 2e-3  # other processors round differently
SAME = 1e-4  # between a picture alone and in a batch
GREY_LEVEL = 1 / 255
LEVELS = 2.05  # by which tensors and PIL pictures may differ where a picture is resized: two roundings


def reward(facts: Facts) -> Finding:
    """The reward's models can be loaded."""
    from ...rewards.scoring import load_reward

    facts.reward = load_reward(facts.params.reward, facts.device)
    said = facts.reward.identity()
    clip, plugins = said["clip"], said["plugins"]
    others = "".join(f", plug-in {name} ({one['identity'][:12]})" for name, one in plugins.items())
    return ok(f"{clip['model']}, sha256 of the weights {clip['sha256'][:12]}{others}")


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
        return failed(f"a picture gets different scores: {twice:.2g} apart in the same batch twice, {apart:.2g} alone "
                      "and in a batch", "Set reward.batch_size to 1, or leave out the plug-in that does it.")
    levels = preprocessing(facts, batch)
    if not levels <= LEVELS:
        return failed(f"tensors are preprocessed {levels:.2g} grey levels apart from PIL pictures",
                      "Report it with the name of reward.model.")
    if facts.params.reward.model == MICRO_CLIP and abs(score - KNOWN_SCORE) > KNOWN_TOLERANCE:
        return failed(f"the known picture scores {score:.4f} and not {KNOWN_SCORE}",
                      "Install the package anew: its reward model is damaged.")
    known = f"the known picture scores {score:.4f}, as it should" if facts.params.reward.model == MICRO_CLIP else (
        f"a test picture scores {score:.4f} (no known score for this model)")
    return ok(f"{known}; the same twice, alone and in a batch ({apart:.1g} apart), from tensors and from PIL pictures")


def preprocessing(facts: Facts, pictures: NDArray[np.uint8]) -> float:
    """Grey levels between what the model sees of tensors and of PIL pictures, through open_clip's own transform."""
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    from ...rewards.scoring import channels_first

    clip = facts.reward.clip
    config = PreprocessCfg(**clip.model.visual.preprocess_cfg)
    transform = image_transform_v2(config, is_train=False)
    expected = torch.stack([transform(Image.fromarray(one)) for one in pictures])
    found = clip.preprocess(channels_first(pictures).to(clip.device)).cpu()
    return float((found - expected).abs().max() * min(config.std)) / GREY_LEVEL
