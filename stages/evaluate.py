"""Evaluate: fixed-seed images of training and unseen prompts, scored, compared with the base model.

reads   adapter of the round, the prompts' texts; the base model's evaluation if ROUND is not "init"
writes  evaluate/  picture (one row per image), images.csv, grid.png, reward.json; results/rounds/ROUND.json;
        results/grids/ROUND.png for ``dvc plots``; the same picture to what params.yaml's ``tracking.to`` names
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dfusion_core.models.builtin import model_name
from dfusion_core.pairing.plan import evaluation_plan, image_name
from dfusion_core.params import load_params
from dfusion_core.prompts.reading import load_prompts
from dfusion_core.prompts.texts import texts_input
from dfusion_core.rewards.identity import FILE as REWARD_FILE
from dfusion_core.rewards.identity import read_identity, require_same_reward
from dfusion_core.rewards.plugins import reward_inputs
from dfusion_core.runtime.entry import run_stage
from dfusion_core.runtime.ranks import leads
from dfusion_core.store import Input, open_stage, read_stage
from dfusion_core.store.atomic import write_bytes
from dfusion_core.store.paths import adapter, grid_result, output

if TYPE_CHECKING:
    from dfusion_core.models.policy import Policy
    from dfusion_core.params import Params
    from dfusion_core.prompts.reading import PromptFile
    from dfusion_core.store import StageRun


def evaluate(round: str) -> None:
    """Evaluate the model after ROUND ("init": the base model)."""
    params = load_params("model", "prompts", "sample", "reward", "evaluate")
    prompts = load_prompts(params.prompts.file).first(params.prompts.train_count, params.prompts.test_count)
    inputs: dict[str, Input] = {"adapter": output("train", round), "texts": texts_input(params.prompts)}
    inputs |= reward_inputs(params.reward)
    if round != "init":
        inputs["base"] = output("evaluate", "init")
    with open_stage("evaluate", round=round, params=params, inputs=inputs) as run:
        made = not run.done
        if made:
            grade(run, round, params, prompts)
    if not leads():
        return
    from dfusion_core.evaluation.results import write_round_result
    from dfusion_core.training.following import show_grid

    evaluated = read_stage("evaluate", round)
    write_round_result(round, evaluated, read_stage("evaluate", "init"))
    write_bytes(grid_result(round), evaluated.path("grid.png").read_bytes())
    if made:
        show_grid(round, run.fingerprint, grid_result(round))


def grade(run: StageRun, round: str, params: Params, prompts: PromptFile) -> None:
    """Sample the evaluation images, score them and write pictures, table and grid."""
    from dfusion_core.evaluation.grading import score_images, write_grid
    from dfusion_core.evaluation.infotext import pictures_text
    from dfusion_core.models.policy import load_policy
    from dfusion_core.rewards.scoring import load_reward

    images = evaluation_plan(prompts, params.evaluate)
    policy = load_policy(params.model, params.sample, adapter(round))
    name_what_is_cut(run, params, policy, prompts)
    run.describe = lambda row: f"evaluation {image_name(images, row)}"
    for rows in run.unfinished(len(images), params.evaluate.batch_size):
        part = images.loc[list(rows)]
        made = policy.sample(part.seed.tolist(), policy.embed(part.prompt.tolist()))
        run.write(rows, picture=made.picture)
    pictures = run.collect("picture")
    reward = load_reward(params.reward, policy.device)
    if round != "init":
        require_same_reward(
            {"evaluate_base": read_identity(read_stage("evaluate", "init")), f"evaluate@{round}": reward.identity()}
        )
    scored = score_images(reward, images, pictures)
    run.write_table("images", scored)
    run.path(REWARD_FILE).write_text(json.dumps(reward.identity(), indent=2) + "\n")
    height, width = policy.picture_size
    write_grid(
        run.path("grid.png"),
        scored,
        pictures,
        pictures_text(
            params.sample,
            size=(width, height),
            model=model_name(params.model.id),
            flow=policy.is_transformer,
        ),
    )


def name_what_is_cut(run: StageRun, params: Params, policy: Policy, prompts: PromptFile) -> None:
    """Print which prompts are cut by the model or the reward. Raises PromptsError."""
    from dfusion_core.prompts.reach import check_reach
    from dfusion_core.rewards.tokens import check_reward_reach, load_tokenizer

    everything = (*prompts.train, *prompts.test)
    for cut in (
        check_reach(everything, policy.encode.readers(), params.sample.negative_prompt),
        check_reward_reach(everything, load_tokenizer(params.reward.model), params.reward),
    ):
        if cut:
            run.say(cut)


if __name__ == "__main__":
    run_stage(evaluate)
