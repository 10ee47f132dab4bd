"""Files of weights that were made to do harm: each is refused with its name, quickly, and without taking its memory."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from steps import forget, reseal, run

from dfusion_core.errors import ModelError, StoreError
from dfusion_core.models.loading import load_pipeline
from dfusion_core.models.lora import FILE, read_lora
from dfusion_core.params import load_params
from dfusion_core.training.optimizer import load_optimizer

ADAPTER, OPTIMIZER = Path("runs/r00/train/adapter", FILE), Path("runs/r00/train/optimizer.safetensors")


def with_header(header: Any, data: bytes = b"\0" * 64, size: int | None = None) -> bytes:
    """A safetensors file with any header, and any number where the header's size belongs."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


def tensor(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64], **changes}


HOSTILE = {
    "empty": b"",
    "no header": b"\0" * 8,
    "a header of an exabyte": with_header({"a": tensor()}, size=2**60),
    "a header of 200 MB": with_header({"a": tensor()}, size=200_000_000),
    "negative size": with_header({"a": tensor()}, size=2**64 - 1),
    "no JSON": with_header(b"{" * 200),
    "deep JSON": with_header(b"[" * 100_000),
    "not UTF-8": with_header(b'{"\xff": {}}'),
    "overlap": with_header({"a": tensor(), "b": tensor()}),
    "a hole": with_header({"a": tensor(shape=[2, 2], data_offsets=[48, 64])}),
    "beyond the end": with_header({"a": tensor(data_offsets=[0, 2**40], shape=[2**38])}),
    "backwards": with_header({"a": tensor(data_offsets=[64, 0])}),
    "negative shape": with_header({"a": tensor(shape=[-4, -4])}),
    "shape that overflows": with_header({"a": tensor(shape=[2**33, 2**33])}),
    "unknown dtype": with_header({"a": tensor(dtype="F99")}),
    "shape and data disagree": with_header({"a": tensor(shape=[3, 3])}),
    "one name twice": with_header(b'{"a": %s, "a": %s}' % ((json.dumps(tensor()).encode(),) * 2)),
    "a pickle by that name": b"cos\nsystem\n(S'id'\ntR.",
    "settings that are no JSON": with_header({"__metadata__": {"lora_adapter_metadata": "{"}, "a": tensor()}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_is_no_safetensors(tmp_path: Path, case: str) -> None:
    (tmp_path / FILE).write_bytes(HOSTILE[case])
    parameter = {"a": torch.nn.Parameter(torch.zeros(4, 4))}
    optimizer = torch.optim.AdamW(list(parameter.values()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if case == "one name twice":  # of which the reader takes one: names nothing that an adapter has
        assert list(read_lora(tmp_path)[0]) == ["a"]
    else:
        with pytest.raises(ModelError, match=f"adapter: {tmp_path / FILE} cannot be read: .*dfusion verify"):
            read_lora(tmp_path)
    if case not in ("one name twice", "settings that are no JSON"):
        with pytest.raises(StoreError, match=f"train: {tmp_path / FILE} cannot be used: "):
            load_optimizer(optimizer, parameter, tmp_path / FILE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def replaced(project: Path, file: Path, change: Any) -> None:
    """The round before with one file changed, whose manifest fits."""
    tensors = {name: torch.from_numpy(value) for name, value in load_file(file).items()}
    header = {}
    if file.name == FILE:
        header = {
            "lora_adapter_metadata": json.dumps(
                {"unet.r": 2, "unet.lora_alpha": 2, "unet.target_modules": ["to_k", "to_out.0", "to_q", "to_v"]}
            )
        }
    change(tensors, header)
    save_file(tensors, file, header)
    reseal("train")
    shutil.rmtree(".dfusion", ignore_errors=True)


def first(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name, value in sorted(tensors.items()) if value.ndim == 2)


ADAPTERS = {
    "a key that the U-Net lacks": lambda t, h: t.update({"unet.evil.lora_A.weight": torch.zeros(2, 16)}),
    "a key of another kind": lambda t, h: t.update({"text_encoder.lora_A.weight": torch.zeros(2, 16)}),
    "integers": lambda t, h: t.update({first(t): torch.zeros(2, 16, dtype=torch.int64)}),
    "another shape": lambda t, h: t.update({first(t): torch.zeros(3, 5)}),
    "no rows": lambda t, h: t.update({first(t): torch.zeros(0, 16)}),
    "settings of another kind": lambda t, h: h.update({"lora_adapter_metadata": "[1]"}),
    "nothing": lambda t, h: t.clear(),
}


@pytest.mark.few(3)
@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter_that_is_none(project: Path, case: str) -> None:
    forget("sample", "r01")
    replaced(project, ADAPTER, ADAPTERS[case])
    with pytest.raises(ModelError, match=f"adapter: {ADAPTER} "):
        run("sample", "r01")
    assert not Path("runs/r01/sample").exists()


MOMENTS = {
    "a moment is missing": lambda t, h: t.pop(first(t)),
    "another shape": lambda t, h: t.update({first(t): torch.zeros(1, 1)}),
    "integers": lambda t, h: t.update({first(t): torch.zeros(t[first(t)].shape, dtype=torch.int32)}),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("case", MOMENTS)
def test_moments_that_do_not_fit(project: Path, case: str) -> None:
    forget("train", "r01")
    replaced(project, OPTIMIZER, MOMENTS[case])
    with pytest.raises(StoreError, match=f"train: {OPTIMIZER} cannot be used: .* is missing or does not fit"):
        run("train", "r01")
    assert not Path("runs/r01/train").exists()


@pytest.mark.parametrize("change", ["names", "one name", "nothing"])
def test_a_text_encoder_under_other_names_is_not_filled_with_random_numbers(project: Path, change: str) -> None:
    """As transformers does, which only prints a table."""
    file = Path("model/text_encoder/model.safetensors")
    tensors = {name: torch.from_numpy(value) for name, value in load_file(file).items()}
    norm = next(name for name in tensors if name.endswith("final_layer_norm.weight"))
    renames: dict[str, Callable[[str], str]] = {
        "names": lambda name: f"clip.{name}",
        "one name": lambda name: f"{name}x" if name == norm else name,
        "nothing": lambda name: name,
    }
    rename = renames[change]
    save_file({rename(name): value for name, value in tensors.items()}, file, {"format": "pt"})
    model = load_params("model").model
    if change == "nothing":
        load_pipeline(model)
    else:
        with pytest.raises(ModelError, match="text_encoder of 'model' is not whole: .*lacks"):
            load_pipeline(model)
