"""`dfusion doctor`: what it finds in a sound project, and each kind of failure, provoked for real."""

from __future__ import annotations

import fcntl
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from steps import run
from typer.testing import CliRunner

from dfusion_core.commands.cli import app
from dfusion_core.commands.doctor import folder, installation
from dfusion_core.commands.doctor.checks import CHECKS
from dfusion_core.commands.doctor.facts import Facts
from dfusion_core.commands.doctor.findings import ok
from dfusion_core.microworld.locate import CLIP
from dfusion_core.models import builtin
from dfusion_core.testing import tiny_model, tiny_params, tiny_sdxl

ROOT = Path(__file__).parents[2]
LAYERS = {"layers": ["mid", "up_1", "up_2"]}  # with attention in the tiny model
EVEN = {"timestep_weight": "equal"}  # else one of its four timesteps outweighs the others
UNET = Path("model/unet/diffusion_pytorch_model.safetensors")
Report = dict[str, dict[str, Any]]  # by the name of the check


@pytest.fixture
def sound(workspace: Path) -> Path:
    """A project in which nothing is wrong but that there is no DVC."""
    tiny_params(workspace, fuse=LAYERS, train=EVEN)
    return workspace


def change(**changes: Any) -> None:
    tiny_params(Path(), **({"fuse": LAYERS, "train": EVEN} | changes))


def doctor(*arguments: str, code: int = 0) -> Report:
    done = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    assert done.exit_code == code, done.output
    report = json.loads(done.stdout)
    assert report["ok"] == (code == 0)
    assert [one["name"] for one in report["checks"]] == [check.name for check in CHECKS]
    return {one["name"]: one for one in report["checks"]}


def unlike(report: Report, *verdicts: str) -> set[str]:
    """The names of the checks with one of these verdicts."""
    return {name for name, one in report.items() if one["verdict"] in verdicts}


def dependents(*names: str) -> set[str]:
    """The checks that need one of these, directly or not."""
    found: set[str] = set()
    for check in CHECKS:
        if {*names, *found} & set(check.needs):
            found.add(check.name)
    return found


def test_a_sound_project(sound: Path) -> None:
    before = {path for path in sound.rglob("*") if path.is_file()}
    report = doctor()
    assert unlike(report, "warning", "failed", "skipped") == {"DVC"}
    assert report["DVC"]["remedy"] == "dfusion init ."
    assert "finite" in report["picture"]["found"]
    assert {path for path in sound.rglob("*") if path.is_file()} == before  # it leaves nothing behind


def test_the_topology(sound: Path) -> None:
    """The tiny U-Net: one attention a down block, two an up block, two heads of 8, 16 channels everywhere."""
    report = doctor()
    shown = {
        row["layer"]: (
            row["resolution"],
            row["tokens"],
            row["heads"],
            row["channels a head"],
            row["self-attention"],
            row["cross-attention"],
            row["fused"],
            row["maps"],
            row["adapted"],
        )
        for row in report["topology"]["details"]
    }
    assert shown == {
        "down_0": ("8x8", 64, 2, 8, 1, 1, 0, 0, 8),
        "down_1": ("4x4", 16, 2, 8, 1, 1, 0, 0, 8),
        "mid": ("2x2", 4, 2, 8, 1, 1, 1, 0, 8),
        "up_1": ("4x4", 16, 2, 8, 2, 2, 2, 2, 16),
        "up_2": ("8x8", 64, 2, 8, 2, 2, 2, 0, 16),
    }
    assert report["sample.maps"]["found"] == "2 cross-attention modules of up_1, maps of 4x4"
    assert report["fuse.layers"]["found"] == "5 self-attention modules of mid, up_1, up_2"
    weights = 14 * 4 * 2 * (2 * 16)  # modules, projections, A and B, rank by width
    assert report["lora.targets"]["found"] == (
        f"layers: to_q 14, to_k 14, to_v 14, to_out.0 14; {weights:,} trainable weights of rank 2"
    )


def test_the_table_for_people(sound: Path) -> None:
    change(sample={"maps": "up_0"})
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    words = " ".join(done.stdout.replace("│", " ").split())
    assert f"{len(CHECKS)} checks in" in words and "1 warning, 1 failed." in words
    assert "layer 'up_0' of this U-Net has no attention." in words and "Set sample.maps to up_1" in words
    assert "channels a head" in words


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from dfusion_core.commands.cli import app\n"
        "try: app(['doctor', '--help'])\nexcept SystemExit: pass\n"
        "print('loaded', [name for name in ('torch', 'diffusers', 'dvc', 'pandas', 'rich.table') "
        "if name in sys.modules and name != 'rich.table'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "--json" in done.stdout and "loaded []" in done.stdout


def test_a_pipeline_of_another_version(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an upgrade dvc.yaml may lack a dependency. The remedy is what mends it; the project's own stages stay."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(sound.parent))
    look = functools.partial(folder.pipeline, Facts(Path("params.yaml")))
    assert look().verdict == "ok"
    assert CliRunner().invoke(app, ["init", "."]).exit_code == 0
    written = Path("dvc.yaml").read_text()
    Path("dvc.yaml").write_text(written.replace("\nplots:", "\n  mine:\n    cmd: echo\n\nplots:"))
    assert look().verdict == "ok"
    Path("dvc.yaml").write_text("stages: [\n")
    assert look().verdict == "failed"
    Path("dvc.yaml").write_text(written.replace("        - results/code/fuse.json\n", ""))
    found = look()
    assert found.verdict == "warning" and " fuse " in found.found
    move, again = found.remedy.split(" && ")
    subprocess.run(move.split(), check=True)
    assert CliRunner().invoke(app, again.split()[1:]).exit_code == 0
    assert look().verdict == "ok" and Path("dvc.yaml").read_text() == written


# --- packages and parameters ---


def installed(folder: Path, name: str, version: str, *lines: str) -> None:
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines]) + "\n")


def test_an_old_package(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(sound, "pandas", "1.5")
    monkeypatch.syspath_prepend(sound)
    found = installation.versions(Facts(Path("params.yaml")))
    assert found.verdict == "failed" and found.found == "pandas is 1.5, and >=3.1 is needed"
    assert found.remedy == "pip install --upgrade 'pandas>=3.1'"


@pytest.mark.parametrize(
    ("lines", "said", "remedy"),
    [
        (
            ["Requires-Dist: nowhere-at-all>=2"],
            "nowhere-at-all is not installed",
            "pip install --upgrade 'nowhere-at-all>=2'",
        ),
        (
            ["Requires-Dist: nowhere-at-all>=2; extra == 'dev'", "Requires-Python: >=4"],
            "and >=4 is needed",
            "Use another Python.",
        ),
    ],
)
def test_what_is_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], said: str, remedy: str
) -> None:
    installed(tmp_path, installation.DISTRIBUTION, "9.9", *lines)
    monkeypatch.syspath_prepend(tmp_path)
    found = installation.versions(Facts(Path("params.yaml")))
    assert found.verdict == "failed" and said in found.found and found.remedy == remedy


def test_a_package_that_cannot_be_imported(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)  # Python's own way to make an import fail
    found = installation.imports(Facts(Path("params.yaml")))
    assert found.verdict == "failed" and found.found.startswith("zarr: ModuleNotFoundError: ")


def test_wrong_parameters(sound: Path) -> None:
    """What does not depend on them is checked all the same."""
    change(sample={"num_step": 3})
    report = doctor(code=1)
    assert "sample.num_step: there is no such key (got 3)" in report["params.yaml"]["found"]
    assert unlike(report, "failed") == {"params.yaml"}
    assert unlike(report, "skipped") == dependents("params.yaml")
    assert report["model files"]["found"] == "because of 'params.yaml' above"
    assert unlike(report, "ok") == {"versions", "imports", "folder", "dvc.yaml", "locks"}


def test_no_parameters(workspace: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--params", "elsewhere.yaml"])
    assert done.exit_code == 1 and "elsewhere.yaml" in done.output and "Traceback" not in done.output


# --- one thing wrong at a time ---

ONE_WRONG: dict[str, tuple[dict[str, Any], str, str, str, str]] = {  # changes, check, verdict, found, remedy
    "a layer without attention for maps": (
        {"sample": {"maps": "up_0"}},
        "sample.maps",
        "failed",
        "layer 'up_0' of this U-Net has no attention. Layers with attention: down_0, down_1, mid, up_1, up_2",
        "Set sample.maps to up_1",
    ),
    "a layer that is not there for maps": (
        {"sample": {"maps": "up_3"}},
        "sample.maps",
        "failed",
        "this U-Net has no layer 'up_3'",
        "Set sample.maps to up_1",
    ),
    "a later layer for maps": (
        {"sample": {"maps": "up_2"}},
        "sample.maps",
        "warning",
        "maps of 8x8; up_1 comes before it",
        "Set sample.maps to up_1",
    ),
    "no layer to fuse": (
        {"fuse": {"layers": ["up_0"]}},
        "fuse.layers",
        "failed",
        "no attention in up_0",
        "Set fuse.layers to [mid, up_1, up_2]",
    ),
    "layers to fuse that are not there": (
        {"fuse": {"layers": ["mid", "up_1", "up_3"]}},
        "fuse.layers",
        "failed",
        "no attention in up_3",
        "down_0, down_1, mid, up_1, up_2. Set fuse.layers to [mid, up_1, up_2]",
    ),
    "no layer to adapt": (
        {"lora": {"targets": ["to_qq"]}},
        "lora.targets",
        "failed",
        "'to_qq' names no layer of this U-Net",
        "Did you mean 'to_q'?",
    ),
    "no model": (
        {"model": {"id": "nowhere"}},
        "model files",
        "failed",
        "there is no folder or file 'nowhere'",
        "Set model.id to a folder",
    ),
    "no reward": ({"reward": {"model": "local-dir:nowhere"}}, "reward", "failed", "'nowhere'", "reward.model"),
    "no prompts": (
        {"prompts": {"file": "nowhere.yaml"}},
        "prompts",
        "failed",
        "there is no file nowhere.yaml",
        "Set prompts.file in params.yaml",
    ),
    "fewer prompts": ({"prompts": {"train_count": 9}}, "prompts", "failed", "9 train prompts are asked for", "Lower"),
    "a threshold above the paper's": (
        {"adopt": {"threshold": 1.5}},
        "params.yaml",
        "warning",
        "the paper's range",
        "Correct it in params.yaml",
    ),
}


@pytest.mark.few(4)
@pytest.mark.parametrize("kind", ONE_WRONG)
def test_one_thing_wrong(sound: Path, kind: str) -> None:
    changes, check, verdict, found, remedy = ONE_WRONG[kind]
    change(**changes)
    report = doctor(code=int(verdict == "failed"))
    assert report[check]["verdict"] == verdict
    assert found in report[check]["found"] and remedy in report[check]["remedy"]
    assert unlike(report, "failed", "warning") == {check, "DVC"}
    assert unlike(report, "skipped") == (dependents(check) if verdict == "failed" else set())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(sound: Path) -> None:
    change(model={"device": "cuda"})
    report = doctor(code=1)
    assert unlike(report, "failed") == {"device"} and report["device"]["remedy"] == "Set model.device to auto."
    assert report["pinned weights"]["verdict"] == "ok" and report["picture"]["verdict"] == "skipped"


def test_prompts_without_thresholds(sound: Path) -> None:
    change(extract={"threshold": "absolute"})
    assert unlike(doctor(), "failed", "warning") == {"DVC"}
    Path("prompts.yaml").write_text("- a [heart]\n")
    report = doctor(code=1)
    assert report["prompts"]["found"] == "prompts: 'a heart' has no thresholds, and extract.threshold is absolute"
    assert "'dfusion thresholds --write'" in report["prompts"]["remedy"]
    assert report["items"]["verdict"] == "skipped" and report["picture"]["verdict"] == "ok"


def test_an_item_behind_the_last_token(sound: Path) -> None:
    long = " ".join(["a heart holding"] + ["a balloon and"] * 5 + ["a [star]"])
    Path("prompts.yaml").write_text(f"- {long}\n- the [star] above the [moon]\n")
    report = doctor(code=1)
    assert unlike(report, "failed") == {"items", "scored prompts"}
    assert report["items"]["found"].startswith("item 'star' of the prompt 'a heart holding a balloon")
    assert "is not among the first 16 tokens" in report["items"]["found"]
    assert report["items"]["remedy"] == "Shorten the prompt or choose other items in prompts.yaml."


# --- the folder ---


def test_a_file_where_a_folder_should_be(sound: Path) -> None:
    Path("runs").write_text("")
    report = doctor(code=1)
    assert unlike(report, "failed") == {"folder"}
    assert "runs: nothing can be written" in report["folder"]["found"]


def test_a_folder_in_which_nothing_can_be_written(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model", "clip", "prompts.yaml"):
        assert Path(name).exists()
    monkeypatch.chdir("/proc")  # where not even root can
    report = doctor("--params", str(sound / "params.yaml"), code=1)
    assert "/proc: nothing can be written" in report["folder"]["found"]
    assert "DFUSION_SCRATCH" in report["folder"]["remedy"]


def test_locks_that_do_not_lock(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)  # as some network file systems do
    report = doctor(code=1)
    assert unlike(report, "failed") == {"locks"} and "does not keep a second writer out" in report["locks"]["found"]


def test_dvc(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_NO_ANALYTICS", raising=False)
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "config", "core.analytics", "true"]):
        subprocess.run(command, check=True, capture_output=True)
    found = folder.dvc(Facts(Path("params.yaml")))
    assert found.verdict == "warning" and found.remedy == "dvc config core.analytics false"
    subprocess.run(found.remedy.split(), check=True, capture_output=True)
    subprocess.run(["dvc", "config", "cache.type", "hardlink,copy"], check=True, capture_output=True)
    assert folder.dvc(Facts(Path("params.yaml"))) == ok("cache linked by hardlink")
    subprocess.run(["dvc", "config", "cache.type", "copy"], check=True, capture_output=True)
    found = folder.dvc(Facts(Path("params.yaml")))
    assert found.verdict == "ok" and found.remedy == "To save space: dvc config cache.type reflink,hardlink,symlink"
    assert [path.name for path in Path().iterdir() if path.is_file()] == [".dvcignore"]  # no link is left behind


# --- the model ---


def test_other_weights_than_init_found(sound: Path) -> None:
    run("init")
    assert doctor()["pinned weights"]["found"] == "10 files as init found them"
    tiny_model(Path("model"), seed=1)
    report = doctor(code=1)
    assert unlike(report, "failed") == {"pinned weights"}
    assert "is not the model that this run began with" in report["pinned weights"]["found"]
    assert "'dvc repro -f -s init'" in report["pinned weights"]["remedy"]


def test_a_file_that_was_cut_off(sound: Path) -> None:
    UNET.write_bytes(UNET.read_bytes()[:-100])
    report = doctor(code=1)
    assert unlike(report, "failed") == {"model"} and unlike(report, "skipped") == dependents("model")


def test_a_weight_that_is_not_a_number(sound: Path) -> None:
    weights = load_file(UNET)
    weights["conv_in.bias"][0] = float("nan")
    save_file(weights, UNET, metadata={"format": "pt"})
    report = doctor(code=1)
    assert report["model"]["found"] == "NaN or infinite: U-Net's conv_in.bias"
    assert "Get the model's files once more" in report["model"]["remedy"]


def test_weights_that_overflow(sound: Path) -> None:
    """Finite themselves: the first forward is not."""
    weights = load_file(UNET)
    weights["conv_in.weight"] *= 1e38
    save_file(weights, UNET, metadata={"format": "pt"})
    report = doctor(code=1)
    assert report["model"]["verdict"] == "ok"
    assert "NaN or infinite" in report["picture"]["found"]


def scheduler(**config: Any) -> None:
    file = Path("model/scheduler/scheduler_config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | config))


@pytest.mark.parametrize(
    ("config", "verdict", "found", "remedy"),
    [
        (
            {"timestep_spacing": "trailing"},
            "warning",
            "trailing spacing, 4 steps from timestep 999 to 249",
            "Nothing has",
        ),
        (
            {"set_alpha_to_one": True},
            "warning",
            "epsilon, leading spacing, 4 steps from timestep 751 to 1",
            "Nothing has",
        ),
        ({"prediction_type": "v_prediction"}, "ok", "v_prediction, leading spacing", ""),
    ],
)
def test_schedulers(sound: Path, config: dict[str, Any], verdict: str, found: str, remedy: str) -> None:
    scheduler(**config)
    report = doctor()
    assert report["scheduler"]["verdict"] == verdict and report["picture"]["verdict"] == "ok"
    assert found in report["scheduler"]["found"] and remedy in report["scheduler"]["remedy"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, "a zero-SNR first step needs v_prediction"),
        ({"thresholding": True}, "clips samples"),
        ({"prediction_type": "sample"}, "prediction_type must be one of"),
    ],
)
def test_schedulers_that_ddim_cannot_follow(sound: Path, config: dict[str, Any], said: str) -> None:
    scheduler(**config)
    report = doctor(code=1)
    assert unlike(report, "failed") == {"model"} and unlike(report, "skipped") == dependents("model")
    assert f"cannot be sampled by DDIM: {said}" in report["model"]["found"].replace("the scheduler ", "")
    assert report["model"]["remedy"] == "See docs/models.md."


@pytest.mark.slow
def test_sdxl(workspace: Path) -> None:
    """Its first up block with attention is up_0; the paper's names leave it out."""
    tiny_sdxl(workspace / "model")
    tiny_params(workspace, train=EVEN, lora={"targets": ["to_v"]}, fuse={"layers": ["mid", "up_1", "up_2", "up_3"]})
    report = doctor(code=1)
    assert unlike(report, "warning") == {"DVC", "sample.maps"} and unlike(report, "failed") == {"fuse.layers"}
    assert report["sample.maps"]["remedy"].startswith("Set sample.maps to up_0:")
    assert "no attention in up_2, up_3" in report["fuse.layers"]["found"]
    assert "down_1, down_2, mid, up_0, up_1. Set fuse.layers to [mid, up_0, up_1]" in report["fuse.layers"]["remedy"]
    modules = {row["layer"]: (row["resolution"], row["self-attention"]) for row in report["topology"]["details"]}
    assert modules == {
        "down_1": ("4x4", 4),
        "down_2": ("2x2", 20),
        "mid": ("2x2", 10),
        "up_0": ("2x2", 30),
        "up_1": ("4x4", 6),
    }
    layers = {"layers": ["mid", "up_0", "up_1"]}
    tiny_params(workspace, train=EVEN, lora={"targets": ["to_v"]}, sample={"maps": "up_3"}, fuse=layers)
    report = doctor(code=1)
    assert unlike(report, "warning") == {"DVC"} and unlike(report, "failed") == {"sample.maps"}
    assert "has no layer 'up_3'" in report["sample.maps"]["found"]


# --- arithmetic ---


def test_bf16(sound: Path) -> None:
    change(model={"dtype": "bf16"})
    report = doctor()
    assert unlike(report, "failed", "skipped") == set()
    assert report["dtype"]["found"].startswith("bfloat16, off by ")


# --- the reward ---


class Moody:
    """A reward that never says the same thing twice."""

    def __init__(self, device: torch.device) -> None:
        self.calls = 0

    def __call__(self, pictures: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        self.calls += 1
        return torch.full((len(pictures),), float(self.calls))

    def identity(self) -> str:
        return "moody 1"


def test_a_reward_that_changes_its_mind(sound: Path) -> None:
    change(reward={"plugins": {f"{__name__}:Moody": 1.0}})
    report = doctor(code=1)
    assert report["reward"]["found"].endswith(f"{__name__}:Moody (moody 1)")
    assert unlike(report, "failed") == {"scores"}
    assert "1 apart in the same batch twice" in report["scores"]["found"]


def test_the_known_score(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """micro-clip's, whatever its weight in the reward; other weights in its folder are found out."""
    change(reward={"model": "micro-clip", "pretrained": "", "weight": 0.5})
    assert "the known picture scores 0.9227, as it should" in doctor()["scores"]["found"]
    other = Path(shutil.copytree(CLIP, "other")).resolve()
    file = other / "open_clip_model.safetensors"
    weights = load_file(file)
    save_file({name: value * 1.2 if "layer4" in name else value for name, value in weights.items()}, file)
    monkeypatch.setattr(builtin, "CLIP", other)
    report = doctor(code=1)
    assert unlike(report, "failed") == {"scores"}
    assert "and not 0.9227" in report["scores"]["found"] and "Install the package anew" in report["scores"]["remedy"]


# --- the built-in model with the repository's own parameters ---


@pytest.mark.slow
def test_the_micro_world_in_a_minute(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "params.yaml", workspace)
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "config", "core.analytics", "false"]):
        subprocess.run(command, check=True, capture_output=True)
    report = doctor()
    assert unlike(report, "ok") == set(report)
    assert sum(one["seconds"] for one in report.values()) < 60


@pytest.mark.slow
def test_a_timestep_that_outweighs_the_others(sound: Path) -> None:
    """At T = 20 the log-prob's gradient is 5.4 at t = 2, at most 1.1 elsewhere; what is advised mends it."""
    change(sample={"num_steps": 20}, train={"timestep_weight": "none"})
    assert doctor()["timesteps"]["verdict"] == "warning"
    assert "t = 2 weighs 4.8 times" in doctor()["timesteps"]["found"]
    for mended in ({"timestep_weight": "equal"}, {"last_t": 3}):
        change(sample={"num_steps": 20}, train=mended)
        assert doctor()["timesteps"]["verdict"] == "ok"
