"""score: the raw cosine of open_clip, one row an image."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from steps import array, change, content, forget, reseal, run

from dfusion_core.commands.report import write_report
from dfusion_core.errors import MissingStage, RewardError
from dfusion_core.evaluation.labels import shown
from dfusion_core.evaluation.results import read_results
from dfusion_core.params import load_params
from dfusion_core.rewards.plugins import GROUP
from dfusion_core.rewards.scoring import load_reward
from dfusion_core.store import read_stage
from dfusion_core.store.paths import ROUND_STAGES

PLUGIN = """
class Redness:
    def __init__(self, device): ...

    def __call__(self, pictures, prompts):
        return pictures[:, 0].float().mean(dim=(1, 2)) / 255

    def identity(self):
        return "redness 1"
"""


def cosines(pictures: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """open_clip as its README uses it, one picture at a time."""
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:clip")
    tokenizer = open_clip.get_tokenizer("local-dir:clip")
    model.eval()
    found = []
    with torch.no_grad():
        for picture, prompt in zip(pictures, prompts, strict=True):
            seen = model.encode_image(preprocess(Image.fromarray(picture.numpy()))[None])
            said = model.encode_text(tokenizer([prompt]))
            found.append(torch.cosine_similarity(seen, said))
    return torch.cat(found)


def test_rewards_are_cosines(project: Path) -> None:
    scores, images = read_stage("score", "r00").table("scores"), read_stage("sample", "r00").table("images")
    assert list(scores.columns) == ["image", "prompt_id", "reward", "clip"]
    assert (scores.reward == scores["clip"]).all()
    assert scores.image.tolist() == images.image.tolist()
    assert scores.prompt_id.tolist() == images.prompt_id.tolist()
    expected = cosines(array("sample", "picture"), images.prompt.tolist())
    np.testing.assert_allclose(scores.reward, expected.numpy(), rtol=0, atol=1e-6)
    assert scores.reward.nunique() == len(scores)


def test_the_same_bytes_again_and_the_batch_size(project: Path, finished: Path) -> None:
    forget("score")
    run("score")
    assert content(Path("runs/r00/score")) == content(finished / "runs/r00/score")
    before = read_stage("score", "r00").table("scores").reward
    change(reward={"batch_size": 3})
    run("score")
    np.testing.assert_allclose(read_stage("score", "r00").table("scores").reward, before, rtol=0, atol=1e-6)


def test_embeddings_are_kept(project: Path) -> None:
    """Of unit length; the reward is their product with the prompt's."""
    seen = array("score", "embedding")
    np.testing.assert_allclose(seen.norm(dim=1), 1, rtol=0, atol=1e-5)
    clip = load_reward(load_params("reward").reward, torch.device("cpu")).clip
    said = clip.embed_prompts(read_stage("sample", "r00").table("images").prompt.tolist())
    rewards = read_stage("score", "r00").table("scores").reward
    np.testing.assert_allclose((seen * said).sum(dim=1), rewards, rtol=0, atol=1e-6)


def test_a_plugin_through_the_stages(project: Path) -> None:
    """Its own column and its part in the sum; a change of its code scores again."""
    plugin = Path("own_reward.py")
    plugin.write_text(PLUGIN)
    change(reward={"weight": 0.0, "plugins": {"own_reward:Redness": 2.0}})
    run("score")
    table, pictures = read_stage("score", "r00").table("scores"), array("sample", "picture")
    assert list(table.columns) == ["image", "prompt_id", "reward", "clip", "own_reward:Redness"]
    np.testing.assert_allclose(table.reward, 2 * pictures[..., 0].float().mean(dim=(1, 2)) / 255, rtol=1e-5)
    assert json.loads(Path("runs/r00/score/reward.json").read_text())["plugins"] == {
        "own_reward:Redness": {"weight": 2.0, "identity": "redness 1"}
    }
    for stage in ("extract", "fuse", "adopt", "train"):
        run(stage)
    winners = read_stage("adopt", "r00").table("training")
    assert (winners.winner_reward > winners.loser_reward).all()
    plugin.write_text(PLUGIN.replace("redness 1", "redness 2"))
    run("score")
    assert read_stage("score", "r00").manifest["ingredients"] != read_stage("adopt", "r00").manifest["ingredients"]


@pytest.mark.slow
def test_a_plugin_is_no_clipscore(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Case 9: the sum is called reward, CLIP and the plug-in have columns of their own, in every table and page."""
    Path("own_reward.py").write_text(PLUGIN)
    change(reward={"plugins": {"own_reward:Redness": 0.5}}, evaluate={"batch_size": 4})
    run("evaluate", "init")
    for round in ("r00", "r01"):
        for stage in ROUND_STAGES:
            run(stage, round)
    images = read_stage("evaluate", "r00").table("images")
    np.testing.assert_allclose(images.reward, images["clip"] + 0.5 * images["own_reward:Redness"], rtol=1e-5)
    capsys.readouterr()
    run("summary")
    head = capsys.readouterr().out.splitlines()[2]
    assert [column.strip() for column in head.strip("┃").split("┃")] == [
        "round",
        "reward",
        "CLIPScore clip",
        "own_reward:Redness",
        "diversity",
    ]
    results = read_results(["r00", "r01"])
    assert shown(results.measures, results.reward)["reward"] == "reward"
    write_report(Path("report.html"))
    page = Path("report.html").read_text()
    assert "<th>reward</th><th>CLIPScore clip</th><th>own_reward:Redness</th>" in page
    assert "0.5 x own_reward:Redness (redness 1)" in page


def test_names_that_no_plugin_may_have(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point called "clip" would take the place of CLIPScore in every table."""
    monkeypatch.setattr("dfusion_core.rewards.plugins._entry", lambda name: EntryPoint(name, "json:dumps", GROUP))
    change(reward={"plugins": {"clip": 1.0}})
    with pytest.raises(RewardError, match="'clip' is the name of a column"):
        load_reward(load_params("reward").reward, torch.device("cpu"))


def test_targets_are_scored_by_the_models_that_scored_the_images(project: Path) -> None:
    recorded = Path("runs/r00/score/reward.json")
    sha256 = json.loads(recorded.read_text())["clip"]["sha256"]
    recorded.write_text(recorded.read_text().replace(sha256, "0" * 64))
    reseal("score")
    run("extract")
    run("fuse")
    forget("adopt")
    with pytest.raises(RewardError, match="score@r00 and adopt@r00 .* different rewards.*dvc repro -f -s score@r00"):
        run("adopt")


def test_a_missing_reward_model(project: Path) -> None:
    for name in ("local-dir:nowhere", "ViT-Z-99"):
        change(reward={"model": name, "pretrained": "some"})
        with pytest.raises(RewardError) as caught:
            run("score")
        assert name.removeprefix("local-dir:") in caught.value.message
        assert "Set reward.model to " in caught.value.hint and "micro-clip" in caught.value.hint
    assert read_stage("score", "r00").table("scores").shape == (8, 4)  # the old one is still there


def test_nothing_was_sampled(project: Path) -> None:
    forget("sample")
    with pytest.raises(MissingStage, match="'dvc repro -s sample@r00'"):
        run("score")
