"""Layers and words that a model does not have: refused by name before anything is computed, with what there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from steps import change, forget, run

from dfusion_core.errors import DFusionError, PromptsError
from dfusion_core.testing import tiny_params

MISSING = {
    "absent": ({"fuse": {"layers": ["mid", "up_1", "up_3"]}}, "fuse.layers", "up_3"),
    "no attention": ({"fuse": {"layers": ["up_0", "up_1"]}}, "fuse.layers", "up_0"),
    "none of them": ({"fuse": {"layers": ["down_3"]}}, "fuse.layers", "down_3"),
    "maps": ({"sample": {"maps": "up_3"}}, "up_3", "up_1"),
    "maps without attention": ({"sample": {"maps": "down_2"}}, "down_2", "up_1"),
    "adapter": ({"lora": {"targets": ["to_v", "to_z"]}}, "lora.targets", "to_z"),
}


@pytest.mark.parametrize("name", MISSING)
def test_init_names_layers_that_the_model_lacks(workspace: Path, name: str) -> None:
    changes, *named = MISSING[name]
    tiny_params(workspace, **changes)
    with pytest.raises(DFusionError) as caught:
        run("init")
    assert all(one in str(caught.value) for one in named)
    assert "up_2" in str(caught.value) or "attn1.to_q" in str(caught.value)  # what there is
    assert not Path("runs/init/train").exists()


@pytest.mark.parametrize("stage", ["sample", "extract"])
def test_a_layer_that_is_named_later(project: Path, stage: str) -> None:
    change(fuse={"layers": ["mid", "up_3"]})
    forget(stage)
    with pytest.raises(DFusionError, match="up_3") as caught:
        run(stage)
    assert "mid, up_1, up_2" in str(caught.value)


def test_the_advised_layers_are_accepted(workspace: Path) -> None:
    tiny_params(workspace, fuse={"layers": ["mid", "up_3"]})
    with pytest.raises(DFusionError) as caught:
        run("init")
    advised = str(caught.value).partition("Set fuse.layers to [")[2].partition("]")[0].split(", ")
    tiny_params(workspace, fuse={"layers": advised})
    run("init")


@pytest.mark.parametrize("stage", ["sample", "evaluate"])
def test_a_word_that_the_vocabulary_lacks(project: Path, stage: str) -> None:
    prompts = yaml.safe_load(Path("prompts.yaml").read_text())
    prompts["test"] = ["the star ☃ the moon"]
    Path("prompts.yaml").write_text(yaml.safe_dump(prompts, allow_unicode=True))
    with pytest.raises(PromptsError, match="☃") as caught:
        run(stage, "r00" if stage == "sample" else "init")
    assert "umbrella" in str(caught.value)


def test_a_word_that_only_the_reward_lacks(project: Path) -> None:
    """A vocabulary of its own, without the letter v."""
    file = Path("clip/tokenizer.json")
    said = json.loads(file.read_text())
    vocabulary = said["model"]["vocab"]
    vocabulary.update({"☃": vocabulary.pop("v"), "☃</w>": vocabulary.pop("v</w>")})
    said["model"]["merges"] = [one for one in said["model"]["merges"] if not any("v" in part for part in one)]
    said["model"]["vocab"] = {word if "v" not in word else f"☃{number}": number for word, number in vocabulary.items()}
    file.write_text(json.dumps(said))
    prompts = yaml.safe_load(Path("prompts.yaml").read_text())
    prompts["train"].append("a violet [star]")
    Path("prompts.yaml").write_text(yaml.safe_dump(prompts))
    run("sample")
    with pytest.raises(PromptsError, match=r"the reward's tokenizer has no tokens for 'violet'"):
        run("score")
    with pytest.raises(PromptsError, match=r"the reward's tokenizer has no tokens for 'violet'"):
        run("evaluate", "init")


def test_an_item_beyond_the_limit(project: Path) -> None:
    text = "a red and dotted square above a blue and plain circle below a green and striped triangle left of a [hat]"
    Path("prompts.yaml").write_text(yaml.safe_dump([text]))
    with pytest.raises(PromptsError, match="'hat'") as caught:
        run("sample")
    assert "16" in str(caught.value)


def test_what_is_cut_is_said_once(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "a red and dotted [square] above a blue and plain circle below a green and striped triangle left of a hat"
    Path("prompts.yaml").write_text(yaml.safe_dump([text]))
    for stage in ("sample", "score"):
        run(stage)
        said = capsys.readouterr().out
        assert said.count("triangle left of a hat") == 1 and "16" in said
