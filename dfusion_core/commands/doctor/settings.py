"""params.yaml, the prompt file, and the items of the prompts as tokens of the model."""

from __future__ import annotations

import warnings

from .facts import Facts, listed
from .findings import Finding, failed, ok, warning

SHORTEN = "What is cut off has no effect: shorten the prompts."


def params(facts: Facts) -> Finding:
    """params.yaml is valid, including rules over several sections."""
    from ...params import load_everything

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        facts.params = load_everything(facts.file)
    found = facts.params
    if said:
        return warning("; ".join(str(one.message).rstrip(".") for one in said), f"Correct it in {facts.file}.")
    return ok(
        f"{found.algo}, pairs: {found.pairs}, {len(found.rounds)} rounds, model {found.model.id}, "
        f"reward {found.reward.model}"
    )


def prompts(facts: Facts) -> Finding:
    """The prompt file is valid, has enough prompts, and the thresholds that Eq. 4 needs."""
    from ...extraction.masks import thresholds
    from ...prompts.reading import load_prompts

    asked = facts.params.prompts
    chosen = load_prompts(asked.file).first(asked.train_count, asked.test_count)
    facts.prompts, facts.unseen, facts.text = chosen.train, chosen.test, chosen.train[0].text
    for prompt in chosen.train:
        thresholds(prompt, facts.params.extract)  # raises if a prompt needs thresholds and has none
    return ok(f"{len(chosen.train)} training and {len(chosen.test)} test prompts of {asked.file}")


def items(facts: Facts) -> Finding:
    """Each item of a training prompt has tokens among those that the text encoder reads."""
    from ...attention.masks import ItemNotFound
    from ...prompts.reach import check_reach

    missing, split = [], 0
    for prompt in facts.prompts:
        for item in prompt.items:
            try:
                split += len(facts.policy.encode.positions(prompt.text, item)) > 1
            except ItemNotFound as error:
                missing.append(error.message.rstrip("."))
    if missing:
        return failed(listed(missing, 2), f"Shorten the prompt or choose other items in {facts.params.prompts.file}.")
    count = sum(len(prompt.items) for prompt in facts.prompts)
    found = f"{count} items of {len(facts.prompts)} prompts, {split} of them with several tokens"
    sample = facts.params.sample
    cut = check_reach((*facts.prompts, *facts.unseen), facts.policy.encode.readers(), sample.negative_prompt)
    if cut:
        return warning(f"{found}; {cut}", SHORTEN)
    if sample.negative_prompt and sample.guidance_scale == 1:
        return warning(
            f"{found}; sample.negative_prompt has no effect at sample.guidance_scale 1",
            "Set sample.guidance_scale above 1, or sample.negative_prompt to an empty text.",
        )
    return ok(found)


def scored(facts: Facts) -> Finding:
    """The reward's text encoder reads the prompts completely."""
    from ...rewards.tokens import check_reward_reach, reader

    tokenizer = facts.reward.clip.tokenizer
    cut = check_reward_reach((*facts.prompts, *facts.unseen), tokenizer, facts.params.reward)
    return warning(cut, SHORTEN) if cut else ok(f"none has more than {reader(tokenizer).limit} tokens")
