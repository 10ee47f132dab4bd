"""dfusion export: both files do in a fresh pipeline what the round's policy does; the card says what the run was."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from markdown_it import MarkdownIt
from PIL import Image
from safetensors import safe_open
from steps import array, change, content, forget, policy_of, run
from typer.testing import CliRunner

from dfusion_core.commands.cli import app
from dfusion_core.commands.export.base_model import OPEN, Base
from dfusion_core.commands.export.card import model_card
from dfusion_core.commands.export.trained import read_trained
from dfusion_core.commands.export.writing import export_round
from dfusion_core.errors import ExportError, MissingStage, ParamsError, RewardError
from dfusion_core.evaluation.results import read_results
from dfusion_core.models.policy import Policy
from dfusion_core.store import read_stage
from dfusion_core.testing import tiny_clip

PEFT, KOHYA = "pytorch_lora_weights.safetensors", "dfusion-r01.safetensors"
BASE = Base(id="org/model", on_hub=True, version="sd_v1", v_prediction=False, sgm=False, licence=OPEN)


def export(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["export", *arguments])


def guided(policy: Policy) -> torch.Tensor:
    """A guided noise prediction of fixed latents."""
    x_t = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return policy.predict_noise(x_t, 1, policy.embed(["the star above the moon"] * 2))


def test_both_files_do_what_the_policy_does(project: Path) -> None:
    done = export("--out", "out")
    assert done.exit_code == 0, done.output
    assert f"{PEFT} (fp32): in a fresh model, noise predictions differ from the adapter's by at most 0;" in done.output
    policy, base = policy_of("r01", train=True), guided(policy_of("init"))
    ours = guided(policy)
    effect = float((ours - base).abs().max())
    assert effect > 1e-3
    for file, allowed in ((PEFT, 1e-6), (KOHYA, 5e-3 * effect)):
        pipeline = StableDiffusionPipeline.from_pretrained("model", safety_checker=None, use_safetensors=True)
        pipeline.load_lora_weights("out", weight_name=file, use_safetensors=True)
        unet = pipeline.unet.eval().to(memory_format=torch.channels_last)  # as load_policy has it: equal arithmetic
        found = guided(replace(policy, unet=unet))
        assert float((found - ours).abs().max()) <= allowed
    torch.testing.assert_close(guided(policy_of("r01")), ours, rtol=1e-4, atol=1e-5)  # merged, as it samples


def test_what_is_written(project: Path) -> None:
    assert export().exit_code == 0
    out = Path("exports/r01")
    names = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert names == {
        "README.md",
        "grid.png",
        PEFT,
        KOHYA,
        "adapter_config.json",
        "adapter_model.safetensors",
        "samples/00-train.png",
        "samples/01-train.png",
        "samples/02-test.png",
    }
    assert (out / PEFT).read_bytes() == Path("runs/r01/train/adapter", PEFT).read_bytes()
    assert (out / "grid.png").read_bytes() == Path("runs/r01/evaluate/grid.png").read_bytes()
    with safe_open(out / KOHYA, "pt") as opened:
        found = opened.metadata()
        assert all(opened.get_tensor(n).dtype == torch.float16 for n in opened.keys() if "alpha" not in n)  # noqa: SIM118
    assert found["ss_network_dim"] == "2" and found["ss_base_model_version"] == "model"
    assert found["modelspec.resolution"] == "16x16"
    assert not any("date" in key or "time" in key for key in found)


def test_peft_reads_the_folder(project: Path) -> None:
    """Its own loader, with nothing but the folder's name: the same predictions as the policy's."""
    from peft import PeftModel

    done = export("--out", "out")
    assert done.exit_code == 0 and "adapter_model.safetensors (fp32)" in done.output
    policy = policy_of("r01", train=True)
    ours = guided(policy)
    pipeline = StableDiffusionPipeline.from_pretrained("model", safety_checker=None, use_safetensors=True)
    unet = PeftModel.from_pretrained(pipeline.unet, "out").get_base_model()
    found = guided(replace(policy, unet=unet.eval().to(memory_format=torch.channels_last)))
    torch.testing.assert_close(found, ours, rtol=0, atol=1e-6)
    assert float((ours - guided(policy_of("init"))).abs().max()) > 1e-3


def test_sample_pictures_say_how_they_were_made(project: Path) -> None:
    export_round("r00", Path("out"), "cats", "fp32", force=False, check=False)
    images, pictures = read_stage("evaluate", "r00").table("images"), array("evaluate", "picture", "r00")
    row = images[(images.split == "test") & (images["sample"] == 0)].iloc[0]
    image = Image.open("out/samples/02-test.png")
    assert np.array_equal(np.asarray(image), pictures[row.image].numpy())
    prompt, settings = image.info["parameters"].split("\n")
    assert prompt == "the star above the moon <lora:cats:1>"
    assert settings.startswith(
        f"Steps: 4, Sampler: DDIM, CFG scale: 5.0, Seed: {row.seed}, Size: 16x16, Model: model, "
        'Eta DDIM: 1.0, Lora hashes: "cats: '
    )


def test_the_card(project: Path) -> None:
    assert export("r01", "--out", "out").exit_code == 0
    card = Path("out/README.md").read_text()
    _, head, body = card.split("---\n", 2)
    found = yaml.safe_load(head)
    (model,) = found.pop("model-index")
    assert model["name"] == "dfusion-r01"
    entries = {
        (one["dataset"]["split"], metric["type"]): metric for one in model["results"] for metric in one["metrics"]
    }
    for split in ("train", "test"):
        numbers = read_results(["r01"]).rounds["r01"][split]["reward"]
        assert entries[split, "reward"]["value"] == numbers["mean"]
        assert entries[split, "reward_gain"]["value"] == numbers["gain"]
        ends = {"interval": 0.95, "low": numbers["gain_low"], "high": numbers["gain_high"]}
        assert entries[split, "reward_gain"].get("args") == (ends if split == "train" else None)
    assert found == {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "license": "other",
        "tags": ["text-to-image", "diffusers", "lora", "d-fusion", "dpo"],
    }
    for split, prompts in (
        ("train", ("a heart holding a balloon", "a blue and dotted square")),
        ("test", ("the star above the moon",)),
    ):
        numbers = read_results(["r01"]).rounds["r01"][split]["reward"]
        known = f"\\[{numbers['gain_low'] or 0:+.4f}, {numbers['gain_high'] or 0:+.4f}\\]"
        bounds = "\\[one prompt: no interval\\]" if split == "test" else known
        assert f"{numbers['gain']:+.4f} {bounds}" in body
        assert all(f"* {prompt}\n" in body for prompt in prompts)
    assert "| round | reward (CLIPScore clip) | diversity |" in body and "1.0 x CLIPScore clip" in body
    assert "| images sampled and scored | 16 |" in body  # 2 rounds of 2 prompts, 4 images each
    assert "| optimizer steps | 4 |" in body  # 2 a round
    assert "| learning rate | 0.001 |" in body and "rank and alpha 2, on to\\_q, to\\_k, to\\_v, to\\_out.0" in body
    assert "![A row of images for each prompt](grid.png)" in body and "(samples/02-test.png)" in body
    assert "dfusion export r01 --name dfusion-r01" in body and "Check the licence of the base model, model" in body
    assert "hu2025dfusion" in body and str(project) not in card


def test_parameters_are_those_of_the_run(project: Path) -> None:
    """params.yaml may have been changed since."""
    change(train={"learning_rate": 0.5}, lora={"rank": 7})
    trained = read_trained("r01")
    assert trained.params["train"]["learning_rate"] == 1e-3 and trained.params["lora"]["rank"] == 2
    assert trained.model.id == "model" and trained.sample.num_steps == 4 and trained.rounds == ("r00", "r01")


def test_equal_runs_have_equal_exports(project: Path) -> None:
    for out in ("a", "b"):
        assert export("r00", "--out", out, "--no-check").exit_code == 0
    assert content(Path("a")) == content(Path("b"))
    assert "were not compared with the trained adapter" in Path("a/README.md").read_text()


def test_nothing_is_replaced_unless_asked(project: Path) -> None:
    Path("out/samples").mkdir(parents=True)
    Path("out/grid.png").write_text("mine")
    Path("out/samples/99-train.png").write_text("of an earlier export")
    Path("out/notes.txt").write_text("mine too")
    done = export("--out", "out")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: export: out has grid.png already; nothing was written.")
    assert content(Path("out")).keys() == {"grid.png", "notes.txt", "samples/99-train.png"}
    shutil.copytree("out/samples", "other/samples")
    assert export("--out", "other", "--no-check").exit_code == 0 and Path("other/samples/99-train.png").exists()
    assert export("--out", "out", "--force", "--no-check").exit_code == 0
    assert Path("out/grid.png").read_bytes() == Path("runs/r01/evaluate/grid.png").read_bytes()
    assert Path("out/notes.txt").read_text() == "mine too" and not Path("out/samples/99-train.png").exists()
    again = export("--out", "out")
    assert f"out has {PEFT}, {KOHYA}, adapter_config.json and 6 more already" in again.stderr


def test_a_folder_that_cannot_be_written(project: Path) -> None:
    Path("out").write_text("a file")
    with pytest.raises(ExportError, match="export: out cannot be written"):
        export_round("r00", Path("out"), "", "fp16", force=False, check=False)


def test_the_last_finished_round_is_the_default(project: Path) -> None:
    forget("evaluate", "r01")
    assert read_trained("").round == "r00"
    with pytest.raises(MissingStage, match="dvc repro -s evaluate@r01"):
        read_trained("r01")
    forget("evaluate", "r00")
    with pytest.raises(MissingStage, match="no round is finished.* Run 'dvc repro'"):
        read_trained("")
    with pytest.raises(ParamsError, match="no round 'r7'"):
        read_trained("r7")


@pytest.mark.slow
def test_an_adapter_that_learned_nothing(project: Path) -> None:
    change(train={"learning_rate": 1e-30})
    for stage in ("train", "evaluate"):
        forget(stage, "r00")
        run(stage, "r00")
    done = export("r00")
    assert done.exit_code == 1 and not Path("exports").exists()
    assert "changes nothing: noise predictions are the base model's" in done.stderr


@pytest.mark.parametrize("name", ["../x", "a b", "a:1", "<b>", ".x", "pytorch_lora_weights", "adapter_model"])
def test_names_that_are_no_file_names(project: Path, name: str) -> None:
    done = export("--name", name)
    assert done.exit_code == 2 and "Invalid value" in done.stderr
    assert not Path("exports").exists()


def test_prompts_cannot_break_out_of_the_card(project: Path) -> None:
    trained = read_trained("r01")
    nasty = "</details><script>alert(1)</script> | `x`\n# y"
    trained = replace(trained, history=pd.DataFrame({"prompt": [nasty], "round": ["r00"], "reward": [0.0]}))
    card = model_card(trained, BASE, "cats", "0" * 64, "fp16", [], [])
    found = MarkdownIt("commonmark", {"html": True}).enable("table").parse(card.split("---\n", 2)[2])
    inline = [one for token in found for one in token.children or []]
    assert not [token for token in found if token.type == "html_block" and "script" in token.content]
    assert not [token for token in inline if token.type == "html_inline" and token.content != "<br>"]
    assert any(
        "".join(c.content for c in token.children or []) == "</details><script>alert(1)</script> | `x` # y"
        for token in found
    )
    assert "base_model: org/model\n" in card and "base_model_relation: adapter\n" in card
    assert "A1111: put it into `models/Lora`, and write `<lora:cats:1>` into the prompt." in card


def test_two_rewards_are_refused(project: Path) -> None:
    """Case 7: the base model was scored by other weights than the round."""
    tiny_clip(Path("clip"), seed=1)
    forget("evaluate", "init")
    run("evaluate", "init")
    with pytest.raises(RewardError, match="dvc repro -f -s evaluate_base"):
        export_round("r01", None, "", "fp16", force=False, check=False)
    assert not Path("exports").exists()
