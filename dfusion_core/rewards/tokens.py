"""The part of a prompt that the text encoder of the reward's CLIP reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import PromptsError, RewardError, one_line
from ..models.builtin import reward_source
from ..prompts.reach import Reader, check_reach, huggingface_reader
from ..prompts.reading import Prompt

if TYPE_CHECKING:
    from ..params import Reward

NAME = "the reward's tokenizer"


def load_tokenizer(name: str) -> Any:
    """open_clip's tokenizer of a reward model, without the model. Raises RewardError."""
    import open_clip

    from .folder import check_local

    check_local(name)
    try:
        return open_clip.get_tokenizer(reward_source(name))
    except Exception as error:  # damaged or foreign files make open_clip raise any kind of exception
        raise RewardError(
            f"reward: the tokenizer of '{name}' cannot be loaded: {one_line(error)}.",
            "Set reward.model to a name that open_clip knows, local-dir:FOLDER, or micro-clip.",
        ) from error


def check_reward_reach(prompts: Sequence[Prompt], tokenizer: Any, reward: Reward) -> str:
    """A warning about the parts of prompts that are cut when they are scored. Raises PromptsError as `check_reach`
    does; if CLIPScore has no weight in the reward, errors are warnings too.
    """
    try:
        return check_reach(prompts, [reader(tokenizer)])
    except PromptsError as error:
        if reward.weight:
            raise
        return " ".join(str(error).split())


def texts(prompts: Sequence[str]) -> list[Prompt]:
    """The distinct prompts of a table without items."""
    return [Prompt(text, ()) for text in dict.fromkeys(prompts)]


def reader(tokenizer: Any) -> Reader:
    """The interface of open_clip's tokenizer: its own, which has every byte, or one of transformers."""

    def rows(texts: list[str]) -> list[tuple[int, ...]]:
        return [tuple(row) for row in tokenizer(texts).tolist()]

    limit, inner = int(tokenizer.context_length), getattr(tokenizer, "tokenizer", None)
    if inner is not None:
        classes = getattr(tokenizer, "tokenizer_mode", "") == "clips"  # one position is for a class token
        return huggingface_reader(NAME, inner, limit - classes, rows, getattr(tokenizer, "clean_fn", str))
    marks = {tokenizer.sot_token_id, tokenizer.eot_token_id}

    def lacking(text: str) -> list[str]:
        return [word for word in text.split() if not marks.isdisjoint(tokenizer.encode(word))]

    return Reader(NAME, limit, rows, lambda text: len(tokenizer.encode(text)) + len(marks), lacking)
