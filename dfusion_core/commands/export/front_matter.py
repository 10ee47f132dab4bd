"""The front matter of a model card: base model, licence, tags, and results with their intervals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...evaluation.labels import SPLITS, shown
from .base_model import Base
from .trained import Trained

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TASK = "text-to-image"


def front_matter(trained: Trained, base: Base, name: str) -> str:
    """The YAML at the head of the card, with its delimiters. Only a model on the Hub can be its base model."""
    from huggingface_hub import ModelCardData

    on_hub: dict[str, Any] = {"base_model": base.id, "base_model_relation": "adapter"} if base.on_hub else {}
    kind = ["stable-diffusion-xl" if base.sgm else "stable-diffusion"] if base.known else []
    data = ModelCardData(
        **on_hub,
        library_name="diffusers",
        pipeline_tag=TASK,
        license=base.licence.id,
        tags=[TASK, "diffusers", "lora", "d-fusion", trained.params["algo"], *kind],
        model_name=name,
        eval_results=list(results(trained)),
    )
    return f"---\n{data.to_yaml()}\n---"


def results(trained: Trained) -> Iterator[EvalResult]:
    """Mean and gain of every measure on each split, in the form of the Hub's results."""
    from huggingface_hub import EvalResult

    images = trained.evaluation.table("images")
    for split, measured in trained.results.rounds[trained.round].items():
        count = images.prompt[images.split == split].nunique()
        for measure, name in shown(measured, trained.results.reward).items():
            numbers = measured[measure]
            for what, suffix in (("mean", ""), ("gain", "_gain")):
                ends = ("low", "high") if what == "mean" else ("gain_low", "gain_high")
                gain = ", gain over the base model on the same prompts and seeds" if suffix else ""
                yield EvalResult(
                    task_type=TASK,
                    dataset_type="prompts",
                    dataset_name=f"{SPLITS[split]} ({count})",
                    dataset_split=split,
                    metric_type=f"{measure}{suffix}",
                    metric_name=f"{name}{gain}",
                    metric_value=numbers[what],
                    metric_args=interval(numbers[ends[0]], numbers[ends[1]]),
                )


def interval(low: float | None, high: float | None) -> dict[str, Any] | None:
    """A 95 % interval as the result's arguments; None if there is none."""
    return None if low is None or high is None else {"interval": 0.95, "low": low, "high": high}
