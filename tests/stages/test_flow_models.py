"""SD 3.5's and FLUX's topologies through the stages: text, velocity, a whole round, adapters, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from steps import run

from dfusion_core.attention.masks import ItemNotFound
from dfusion_core.errors import ModelError, ParamsError
from dfusion_core.models.lora import FILE, add_lora, load_lora, read_lora, save_lora
from dfusion_core.models.policy import Policy, load_policy
from dfusion_core.params.sections import Lora, Model, Sample
from dfusion_core.store import read_stage
from dfusion_core.store.paths import ROUND_STAGES
from dfusion_core.testing import tiny_flux, tiny_params, tiny_sd3

TEXTS = ["a heart holding a balloon", "", "the star above the moon"]
MAKE = {"sd3": tiny_sd3, "flux": tiny_flux}
LAST = {"sd3": "block_2", "flux": "single_1"}
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


@pytest.fixture(scope="module", params=["sd3", "flux"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKE[request.param](tmp_path_factory.mktemp(request.param) / request.param)


def load(folder: Path, **sample: Any) -> Policy:
    return load_policy(Model(id=str(folder), device="cpu"), Sample(num_steps=4, guidance_scale=3.0, **sample), None)


def pipeline(folder: Path) -> Any:
    return diffusers.DiffusionPipeline.from_pretrained(folder, use_safetensors=True)


def test_prompts_are_embedded_as_by_diffusers(folder: Path) -> None:
    policy, theirs = load(folder), pipeline(folder)
    length = policy.encode.limits[-1]
    found = policy.embed(TEXTS)
    for row, text in enumerate(TEXTS):
        if folder.name == "sd3":
            states, _, pooled, _ = theirs.encode_prompt(
                text, None, None, do_classifier_free_guidance=False, max_sequence_length=length
            )
        else:
            states, pooled, _ = theirs.encode_prompt(text, max_sequence_length=length)
        torch.testing.assert_close(found.states[row : row + 1], states, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.pooled[row : row + 1], pooled, rtol=0, atol=1e-5)


def test_a_picture_without_noise_is_that_of_the_pipeline(folder: Path) -> None:
    """At eta 0 and with the last step to 0, sampling is diffusers' own: guidance, packing, shift, decoding."""
    policy, theirs = load(folder), pipeline(folder)
    x_T = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    schedule = policy.schedule
    x, text = x_T.clone(), policy.embed(TEXTS[:1])
    ends = [*schedule.sigma_t[1:].tolist(), 0.0]
    with torch.no_grad():
        for i, end in enumerate(ends):
            x = x + (end - float(schedule.sigma_t[i])) * policy.predict_noise(x, i, text)
    from dfusion_core.models.mmdit import pack

    given = x_T if folder.name == "sd3" else pack(x_T)
    image = theirs(
        TEXTS[0],
        height=16,
        width=16,
        num_inference_steps=4,
        sigmas=torch.linspace(1, 0.25, 4).tolist(),
        guidance_scale=3.0,
        latents=given,
        max_sequence_length=policy.encode.limits[-1],
        output_type="np",
    ).images[0]
    difference = np.abs(policy.decode(x)[0].numpy() / 255 - image)
    assert difference.max() < 2 / 255 and image.std() > 0.01


def test_items_are_found_by_each_tokenizer(folder: Path) -> None:
    """CLIP's token of a word, and the pieces into which T5 cuts it, after CLIP's 16 tokens in SD 3."""
    policy = load(folder)
    found = policy.encode.positions("a heart holding a balloon", "balloon")
    t5 = [k - 16 for k in found if k >= 16] if folder.name == "sd3" else list(found)
    tokenizer = policy.encode.parts[-1][0]
    ids = tokenizer("a heart holding a balloon").input_ids
    assert "".join(tokenizer.convert_ids_to_tokens([ids[k] for k in t5])).replace("▁", "") == "balloon"
    assert (5 in found) == (folder.name == "sd3")  # start, a, heart, holding, a, balloon
    with pytest.raises(ItemNotFound):
        policy.encode.positions("a heart holding a balloon", "moon")


@pytest.mark.slow
def test_a_whole_round(folder: Path, workspace: Path) -> None:
    """Every stage runs; targets differ from their bases where they are fused; training moves the adapter."""
    tiny_params(
        workspace,
        model={"id": str(folder)},
        lora={"targets": list(TARGETS)},
        sample={"maps": "block_1"},
        fuse={"layers": ["block_0", LAST[folder.name]]},
        rounds={"r00": {"prev": "init"}},
    )
    run("init")
    run("evaluate", "init")
    for stage in ROUND_STAGES:
        run(stage)
    sampled, fused, pairs = (read_stage(name, "r00") for name in ("sample", "fuse", "extract"))
    assert sampled.array("cross_map").shape[-2:] == (4, 4)
    bases = sampled.tensor("x", pairs.table("pairs").base_image)
    difference = (fused.tensor("x", range(len(bases))) - bases).abs().amax((1, 2, 3, 4))
    assert (difference > 1e-4).any()
    kv = read_stage("kv", "r00")
    assert any(name.startswith(LAST[folder.name]) for name in kv.names)
    tensors, settings = read_lora(Path("runs/r00/train/adapter"))
    assert all(name.startswith("transformer.") for name in tensors)
    assert max(float(value.abs().max()) for name, value in tensors.items() if "lora_B" in name) > 0
    assert settings is not None and settings["transformer.lora_alpha"] == 2


def test_an_adapter_is_loaded_by_diffusers_as_by_us(folder: Path, tmp_path: Path) -> None:
    policy = load(folder)
    add_lora(policy.unet, Lora(rank=2, targets=TARGETS), seed=0)
    with torch.no_grad():
        for name, weight in policy.unet.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(len(name)))
    save_lora(policy.unet, tmp_path)
    x, text = torch.randn(1, 4, 8, 8), policy.embed(TEXTS[:1])
    with torch.no_grad():
        ours = policy.predict_noise(x, 1, text)
        again, plain = load(folder), load(folder)
        base = plain.predict_noise(x, 1, text)
        load_lora(again.unet, tmp_path, train=False)
        theirs = pipeline(folder)
        theirs.load_lora_weights(tmp_path, weight_name=FILE)
        again_theirs = load(folder)
        again_theirs.unet = theirs.transformer
        assert (ours - base).abs().max() > 1e-2
        torch.testing.assert_close(again.predict_noise(x, 1, text), ours, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(again_theirs.predict_noise(x, 1, text), ours, rtol=1e-4, atol=1e-4)


def test_a_lora_target_of_u_nets_is_refused_with_the_layers_there_are(folder: Path) -> None:
    with pytest.raises(ParamsError) as caught:
        add_lora(load(folder).unet, Lora(targets=("attn2.to_out.1",)), seed=0)
    assert "attn2.to_out.1" in caught.value.message and "attn.add_q_proj" in caught.value.message


def edited(folder: Path, to: Path, file: str, **changes: Any) -> Path:
    """A copy of a model with changes to one of its configurations."""
    import shutil

    shutil.copytree(folder, to)
    config = json.loads((to / file).read_text())
    (to / file).write_text(json.dumps(config | changes))
    return to


def test_flux_that_was_distilled_without_guidance_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load(tiny_flux(tmp_path / "schnell", guidance_embeds=False))
    assert "guidance_embeds" in caught.value.message and "FLUX.1-dev" in caught.value.hint


def test_an_unknown_transformer_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    other = ["diffusers", "PixArtTransformer2DModel"]
    with pytest.raises(ModelError) as caught:
        load(edited(folder, tmp_path / "model", "model_index.json", transformer=other))
    assert "PixArtTransformer2DModel" in caught.value.message and "SD3Transformer2DModel" in caught.value.message
    with pytest.raises(ModelError) as caught:
        load(edited(folder, tmp_path / "kind", "model_index.json", _class_name="PixArtSigmaPipeline"))
    assert "PixArtSigmaPipeline" in caught.value.message and "FluxPipeline" in caught.value.message


def test_a_scheduler_that_is_no_flow_is_refused(folder: Path, tmp_path: Path) -> None:
    to = edited(folder, tmp_path / "model", "model_index.json", scheduler=["diffusers", "DDIMScheduler"])
    diffusers.DDIMScheduler().save_pretrained(to / "scheduler")
    with pytest.raises(ModelError) as caught:
        load(to)
    assert "DDIMScheduler" in caught.value.message and "scheduler_config.json" in caught.value.hint


def test_bf16_runs_with_steps_in_fp32(folder: Path) -> None:
    policy = load_policy(Model(id=str(folder), device="cpu", dtype="bf16"), Sample(num_steps=3), None)
    made = policy.sample([1], policy.embed(TEXTS[:1]))
    assert policy.unet.dtype == torch.bfloat16 and made.trajectories.x.dtype == torch.float32
    log_prob, _ = policy.log_prob(made.trajectories.x[:, 1], made.trajectories.x[:, 2], 1, policy.embed(TEXTS[:1]))
    torch.testing.assert_close(log_prob.cpu(), made.trajectories.log_prob[:, 1], rtol=0, atol=0.1)


def test_exported_files_do_what_the_adapter_does(folder: Path, tmp_path: Path) -> None:
    """diffusers' and peft's own loaders, on fresh models; every key is one of ComfyUI's tables of these models."""
    import re

    from dfusion_core.commands.export.base_model import FLOW, identify
    from dfusion_core.commands.export.kohya import kohya_file, kohya_metadata
    from dfusion_core.commands.export.mmdit_files import mmdit_tensors
    from dfusion_core.commands.export.peft_files import WEIGHTS, peft_files
    from dfusion_core.commands.export.proof import prove
    from dfusion_core.models.loading import load_pipeline

    network = load(folder).unet
    add_lora(network, Lora(rank=2, targets=TARGETS), seed=0)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(len(name)))
    save_lora(network, tmp_path)
    tensors, settings = read_lora(tmp_path)
    base = identify("tiny", network.config, FLOW)
    assert base.flow and not base.sgm and not base.known  # nobody else knows so small a model
    for name, content in peft_files(tensors, settings or {}, 2, 2, base).items():
        (tmp_path / name).write_bytes(content)
    renamed = mmdit_tensors(tensors, 1.0, "fp16")
    (tmp_path / "comfy.safetensors").write_bytes(kohya_file(renamed, kohya_metadata(base, "x", 2, 2, (16, 16)))[0])
    ours = r"(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
    comfy = rf"transformer\.(transformer_blocks\.\d+\.attn2?\.{ours}|single_transformer_blocks\.\d+\.attn\.to_[qkv])"
    assert all(re.fullmatch(rf"{comfy}\.lora_[AB]\.weight", name) for name in renamed)
    model = Model(id=str(folder), device="cpu")
    files = {tmp_path / FILE: "fp32", tmp_path / "comfy.safetensors": "fp16", tmp_path / WEIGHTS: "fp32"}
    proofs = prove(lambda: load_pipeline(model), tmp_path, files)
    assert len(proofs) == 3 and all(proof.effect > 1e-3 for proof in proofs)


def test_alpha_is_multiplied_into_b() -> None:
    from dfusion_core.commands.export.mmdit_files import mmdit_tensors

    adapter = {"transformer.x.lora_A.weight": torch.ones(2, 3), "transformer.x.lora_B.weight": torch.ones(3, 2)}
    found = mmdit_tensors(adapter, 0.5, "fp32")
    assert float(found["transformer.x.lora_A.weight"][0, 0]) == 1.0
    assert float(found["transformer.x.lora_B.weight"][0, 0]) == 0.5
