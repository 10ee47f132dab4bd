"""Thousands of broken files, read by the very functions that the stages and commands use.

What may happen is success, or a DFusionError that names the file (a table's cell, a key); within two seconds of the
processor, and no file appears. A manifest is made to fit the broken file, so that its checksum does not catch it first.

A seeded share runs with the other tests. All of it (a few minutes):

    DFUSION_FUZZ=1000 python -m pytest tests/hostile/test_fuzz.py

where the number is that of inputs for each of the targets below.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mutations import Mutation, as_json, as_yaml, by_bytes, by_nodes, by_words, from_nothing
from outcomes import INPUTS, outcome
from steps import reseal, run

from dfusion_core.adoption.tables import target_table
from dfusion_core.commands.inspect.tree import describe
from dfusion_core.commands.study.grid import load_study
from dfusion_core.errors import DFusionError
from dfusion_core.evaluation.results import compare, read_results, read_training_result
from dfusion_core.evaluation.tables import alignment, metrics, table_cells, updates
from dfusion_core.models.pins import read_pin
from dfusion_core.pairing.plan import pair_plan, twin_plan
from dfusion_core.params import load_params, resolved
from dfusion_core.params.sections import Adopt
from dfusion_core.prompts.reading import load_prompts
from dfusion_core.prompts.texts import texts_input
from dfusion_core.rewards.identity import read_identity, require_same_reward
from dfusion_core.store import read_stage
from dfusion_core.store.derived import require_noted
from dfusion_core.store.paths import PROMPTS_RESULT
from dfusion_core.training.advantages import advantages, extend
from dfusion_core.training.trajectories import load_pairs

STUDY = """\
common: {evaluate.images_per_prompt: 1, "~rounds.r01": null}
factors:
  seed: {"0": {seed: 0}, "1": {seed: 1}}
  method:
    naive: {pairs: naive}
    dfusion: {pairs: dfusion, algo: ddpo, "+rounds.r02.prev": r00}
baseline: naive
"""


MADE = {  # beside what the project has
    "study.yaml": STUDY,
    "p.txt": "a [cat] on a [mat]\n# a remark\na [dog]\n",
    "p.csv": 'prompt,items,thresholds,split\na cat on a mat,cat;mat,0.1;0.2,train\n"dog, a",dog,0.3,\na fox,,,test\n',
    "p.json": '{"train": [{"prompt": "a cat", "items": ["cat"], "thresholds": [0.1]}, "a [dog]"], "test": ["a fox"]}',
    "p.jsonl": '{"prompt": "a cat", "items": ["cat"]}\n"a [dog]"\n{"prompt": "a fox", "split": "test"}\n',
}


class Target(NamedTuple):
    """A file of the finished tiny project, what reads it, how it is mutated, and what an error has to name."""

    file: str
    read: Callable[[], Any]
    nodes: Mutation | None
    names: str


def params() -> Any:
    return load_params("model", "rounds"), resolved()


def noted() -> Any:
    """What a stage that samples compares with what DVC has compared."""
    prompts = texts_input(load_params("prompts").prompts)
    require_noted("sample", {"prompts": prompts}, {"prompts": prompts.digest()})


def scores() -> Any:
    images, scored = read_stage("sample", "r00").table("images"), read_stage("score", "r00").table("scores")
    merged = scored.merge(images[["image", "prompt"]], on="image", validate="one_to_one")
    history = extend(read_stage("train", "init").table("reward_history"), "r00", merged)
    advantages(merged.prompt, merged.reward, history, 5.0)
    return pair_plan(images, scored, "halves"), twin_plan(images)


def pairs() -> Any:
    found = read_stage("extract", "r00").table("pairs")
    reward = found.reference_reward.to_numpy()
    without = read_stage("extract", "r00").table("references").empty_mask[found.reference].to_numpy()
    return target_table(found, reward, without, Adopt()), read_stage("fuse", "r00").rows("picture", found.pair)


def training() -> Any:
    table = read_stage("adopt", "r00").table("training")
    return load_pairs(table, {name: read_stage(name, "r00") for name in ("sample", "fuse")})


def history() -> Any:
    scored = read_stage("score", "r01").table("scores").assign(prompt="a heart holding a balloon")
    found = extend(read_stage("train", "r00").table("reward_history"), "r01", scored)
    return advantages(scored.prompt, scored.reward, found, 5.0)


def evaluated() -> Any:
    tables = [read_stage("evaluate", name).table("images") for name in ("r00", "init")]
    return compare(*tables)


def rounds() -> Any:
    found = read_results(["r00"])
    tables = [table_cells(found, split) for split in found.rounds["init"]]
    return tables, metrics(found), alignment(found, {"init": 0, "r00": 8})


def arrays() -> Any:
    stage = read_stage("fuse", "r00")
    return [(describe(stage, name), stage.rows(name, [0, 3])) for name in stage.names]


def reward() -> Any:
    scored = read_stage("score", "r00")
    found = read_identity(scored)
    other = found | {"plugins": {"x": {"weight": 1.0, "identity": "1"}}}
    return require_same_reward({"score@r00": found, "adopt@r00": other})


YAML, JSON = by_nodes(as_yaml), by_nodes(as_json)
TARGETS = {
    "params": Target("params.yaml", params, YAML, r"^params\.yaml"),
    "prompts": Target("prompts.yaml", lambda: load_prompts("prompts.yaml").first(1, None), YAML, r"^prompts: "),
    **{
        f"prompts{ending}": Target(f"p{ending}", partial(load_prompts, f"p{ending}"), nodes, r"^prompts: p")
        for ending, nodes in ((".txt", None), (".csv", None), (".json", JSON), (".jsonl", None))
    },
    "noted prompts": Target(str(PROMPTS_RESULT), noted, JSON, r"results/prompts\.json"),
    "study": Target("study.yaml", lambda: load_study(Path("study.yaml")), YAML, r"^study\.yaml"),
    "images": Target("runs/r00/sample/images.csv", scores, None, r"sample/images\.csv|score/scores\.csv"),
    "scores": Target("runs/r00/score/scores.csv", scores, None, r"score/scores\.csv"),
    "pairs": Target("runs/r00/extract/pairs.csv", pairs, None, r"extract/pairs\.csv|runs/r00/fuse has"),
    "training": Target("runs/r00/adopt/training.csv", training, None, r"adopt/training\.csv|runs/r00/\w+ has"),
    "history": Target("runs/r00/train/reward_history.csv", history, None, r"train/reward_history\.csv|no image of '"),
    "evaluation": Target("runs/r00/evaluate/images.csv", evaluated, None, r"evaluate/images\.csv|evaluat"),
    "round": Target("results/rounds/r00.json", rounds, JSON, r"results/rounds/r00\.json"),
    "updates": Target(
        "results/training/r00.json",
        lambda: (read_training_result("r00"), updates({"r00": "init"})),
        JSON,
        r"results/training/r00\.json",
    ),
    "reward": Target("runs/r00/score/reward.json", reward, JSON, r"score/reward\.json|come from different rewards"),
    "pin": Target(
        "runs/r00/train/pin.json", lambda: read_pin(Path("runs/r00/train/adapter")), JSON, r"train/pin\.json"
    ),
    "array": Target("runs/r00/fuse/arrays.zarr/x/zarr.json", arrays, JSON, r"runs/r00/fuse"),
    "group": Target("runs/r00/fuse/arrays.zarr/zarr.json", arrays, JSON, r"runs/r00/fuse"),
    "manifest": Target("runs/r00/fuse/manifest.json", arrays, JSON, r"runs/r00/fuse"),
}


@pytest.mark.few(3)
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")  # a parser's remarks on what it was given
def test_broken_input_is_refused_by_name(project: Path, name: str) -> None:
    for made, text in MADE.items():
        Path(made).write_text(text)
    run("prompts")
    target = TARGETS[name]
    file = Path(target.file)
    valid, there = file.read_bytes(), sorted(Path().rglob("*"))
    assert outcome(target.read, target.names) in ("read", "refused")  # `reward` ends in a comparison that fails
    ways = [by_bytes, by_words, from_nothing, *([target.nodes] * 2 if target.nodes else [by_words])]
    count, wrong = {"read": 0, "refused": 0}, []
    for number in range(INPUTS):
        rng = random.Random(f"{name} {number}")
        broken = rng.choice(ways)(rng, valid)
        file.write_bytes(broken)
        if target.file.startswith("runs/") and name != "manifest":
            reseal(file.parts[2], file.parts[1])
        found = outcome(target.read, target.names)
        if found in count:
            count[found] += 1
        else:
            wrong.append(f"{number}: {found}\n    {broken[:300]!r}")
    print(f"{name}: {INPUTS} inputs, {count['read']} read, {count['refused']} refused")
    assert not wrong, f"{len(wrong)} of {INPUTS}:\n" + "\n".join(wrong[:20])
    assert count["refused"] > INPUTS / 4
    assert sorted(Path().rglob("*")) == there


@pytest.mark.parametrize("column", ["split", "prompt", "seed"])
def test_images_are_compared_with_the_base_images_of_the_same_noise_only(project: Path, column: str) -> None:
    """Row by row: of another prompt or seed, the difference would be no gain."""
    images, base = (read_stage("evaluate", name).table("images") for name in ("r00", "init"))
    images.iloc[1, images.columns.get_loc(column)] = images[column].iloc[-1]
    with pytest.raises(DFusionError, match="not of the same images"):
        compare(images, base)
