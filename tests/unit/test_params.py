"""params.yaml: all mistakes at once, located and explained; only the asked sections are handed out."""

import subprocess
import sys
from pathlib import Path

import pytest

from dfusion_core.errors import ParamsError
from dfusion_core.params import explain, load_params, resolved


def write(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text)
    return path


def message(path: Path) -> str:
    with pytest.raises(ParamsError) as caught:
        load_params(path=path)
    return str(caught.value)


def test_all_mistakes_are_reported_together_with_key_value_and_suggestion(tmp_path: Path) -> None:
    text = "algo: ddop\nsample: {num_step: 20, eta: 0.0, batch_size: '4'}\nextract: {keep_kv: some}\n"
    text += "num_steps: 3\n"
    assert message(write(tmp_path, text)).splitlines() == [
        "params.yaml is not valid:",
        "  algo: Input should be 'dpo', 'ddpo' or 'dpok' (got \"ddop\"). Did you mean 'ddpo'?",
        "  sample.eta: Input should be greater than 0 (got 0.0).",
        '  sample.batch_size: Input should be a valid integer (got "4").',
        "  sample.num_step: there is no such key (got 20). Did you mean 'sample.num_steps'?",
        "  extract.keep_kv: Input should be 'all' or 'none' or a whole number (got \"some\").",
        "  num_steps: there is no such key (got 3). Did you mean 'sample.num_steps'? ",
        "'dfusion params' lists every key with its meaning.",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fuse: {first_t: 25}", "fuse.first_t: must be at most sample.num_steps = 20 (got 25)."),
        (
            "fuse: {first_t: 3, last_t: 4}",
            "fuse.last_t: must be at most fuse.first_t = 3 (got 4).",
        ),
        (
            "train: {first_t: 21}",
            "train.first_t: must be from train.last_t = 1 to sample.num_steps = 20 (got 21).",
        ),
        (
            "train: {first_t: 2, last_t: 3}",
            "train.first_t: must be from train.last_t = 3 to sample.num_steps = 20 (got 2).",
        ),
        ("train: {last_t: 19}", "train.last_t: must be at most fuse.first_t = 18 (got 19)."),
        ("fuse: {layers: [mid, mid]}", "fuse.layers: names a layer twice"),
        ("fuse: {layers: [mdi]}", "Did you mean 'mid'?"),
        ("train: {betas: [0.9, 1.0]}", "train.betas: both must be at least 0 and below 1"),
        ("extract: {keep_kv: -1}", "extract.keep_kv: must be all, none or at least 0"),
        ("pairing: {mode: top_quarter_twice}\nsample: {images_per_prompt: 6}", "must be a multiple of 4"),
        (
            "rounds: {r00: {prev: r01}, r01: {prev: init}}",
            "rounds.r00.prev: must be init or an earlier round",
        ),
        ("rounds: {r00: {prev: init}, r02: {prev: r01}}", "rounds.r02.prev: there is no round 'r01'."),
        ("rounds: {first: {prev: init}}", "rounds.first: a round is called r00, r01, ... ."),
        ("rounds: {r00: {}}", "rounds.r00.prev: is missing."),
        ("train: {learning_rate: .nan}", "train.learning_rate: Input should be a finite number"),
        ("seed: yes", 'seed: Input should be a valid integer (got "yes").'),
        ("sample:\n  eta: 1.0\n  eta: 0.5", "line 3: the key 'eta' occurs twice, first in line 2"),
        ("launcher: {trian: torchrun}", 'launcher.trian: there is no such key (got "torchrun"). Did you mean'),
        ("launcher: {train: ' '}", "launcher.train: must be a command, as python or torchrun"),
        ("launcher: {train: 'nice \"python'}", "launcher.train: must be a command"),
        ("launcher: torchrun", 'launcher: Input should be an object (got "torchrun")'),
        ("sample: [1", "line 1"),
        ("- 1", "must hold `key: value` lines"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in message(write(tmp_path, text))


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    assert "Run the command in the folder that holds params.yaml" in message(tmp_path / "params.yaml")


def test_numbers_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {learning_rate: 1e-3, clip_norm: 2}\nextract: {keep_kv: 8}\nfuse:\n")
    params = load_params("train", "extract", "fuse", path=path)
    assert params.train.learning_rate == 0.001
    assert params.train.clip_norm == 2.0
    assert params.extract.keep_kv == 8
    assert params.fuse.layers == ("mid", "up_1", "up_2", "up_3")


def test_only_the_asked_sections_are_there_and_they_are_frozen(tmp_path: Path) -> None:
    params = load_params("sample", "launcher", "rounds", path=write(tmp_path, ""))
    assert params.sample.num_steps == 20
    assert params.for_fingerprint().keys() == {"sample"}
    with pytest.raises(AttributeError, match="section 'train' was not asked for"):
        _ = params.train
    with pytest.raises(AttributeError):
        params.sample = None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="frozen"):
        params.sample.num_steps = 3
    with pytest.raises(ParamsError, match="Did you mean 'sample'"):
        load_params("sampel", path=tmp_path / "params.yaml")


def test_an_unusual_adoption_threshold_is_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"adopt.threshold is 1.2"):
        load_params("adopt", path=write(tmp_path, "adopt: {threshold: 1.2}"))


def test_every_parameter_is_explained(tmp_path: Path) -> None:
    rows = {row.key: row for row in explain()}
    assert all(row.description for row in rows.values())
    assert rows["train.learning_rate"].paper == "0.0001"
    assert rows["train.dpo_beta"].paper == "ours"
    values = {row.key: value for row, value in resolved(write(tmp_path, "seed: 4"))}
    assert values["seed"] == 4
    assert values.keys() == rows.keys()


def test_reading_parameters_imports_no_heavy_library() -> None:
    code = (
        "import sys, dfusion_core.store, dfusion_core.params, dfusion_core.prompts, dfusion_core.commands.cli; "
        "print([m for m in ('torch', 'diffusers', 'zarr', 'pandas', 'xarray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
