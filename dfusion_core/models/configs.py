"""Configurations of foreign models: read as data and checked before any library reads them.

diffusers, transformers and open_clip import or download what some keys of a configuration name. Supported models do
not need these keys, so a folder that has one is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import ModelError, one_line, short
from ..params.strict_json import unique_keys

LARGEST = 64 * 2**20  # largest JSON file in bytes; the largest tokenizers have about 30 MB
RUNS_CODE = {"auto_map", "trust_remote_code", "custom_pipelines", "custom_pipeline", "code_revision"}
FETCHES = {
    "quantization_config",
    "quantization",
    "_attn_implementation",
    "_attn_implementation_internal",
    "attn_implementation",
    "_experts_implementation",
    "use_kernels",
}
PLAIN_ATTENTION = (None, "eager", "sdpa")
INSTEAD = "Set model.id to a copy of the model without it."
AGAIN = "Get this file once more from where the model came."
MOST = 10_000_000  # of what a configuration counts: the largest vocabularies have some 300,000 entries

# model_index.json: the allowed classes of each part. Parts that are not loaded (None is passed for them) may be of any
# class of these libraries.
SCHEDULER = re.compile(r"\w+Scheduler(Discrete)?")
T5 = ("transformers", "T5EncoderModel")
T5_TOKENIZERS = (("transformers", "T5TokenizerFast"), ("transformers", "T5Tokenizer"))
PAIRS: dict[str, tuple[tuple[str, str], ...]] = {
    "unet": (("diffusers", "UNet2DConditionModel"),),
    "transformer": (("diffusers", "SD3Transformer2DModel"), ("diffusers", "FluxTransformer2DModel")),
    "vae": (("diffusers", "AutoencoderKL"),),
    "text_encoder": (("transformers", "CLIPTextModel"), ("transformers", "CLIPTextModelWithProjection")),
    "text_encoder_2": (("transformers", "CLIPTextModelWithProjection"), ("transformers", "CLIPTextModel"), T5),
    "text_encoder_3": (T5,),
    "tokenizer": (("transformers", "CLIPTokenizer"), ("transformers", "CLIPTokenizerFast")),
    "tokenizer_2": (("transformers", "CLIPTokenizer"), ("transformers", "CLIPTokenizerFast"), *T5_TOKENIZERS),
    "tokenizer_3": T5_TOKENIZERS,
    "safety_checker": (("stable_diffusion", "StableDiffusionSafetyChecker"),),
    "feature_extractor": (("transformers", "CLIPImageProcessor"), ("transformers", "CLIPFeatureExtractor")),
    "image_encoder": (("transformers", "CLIPVisionModelWithProjection"),),
}


def read_config(file: Path, key: str = "model.id") -> Any:
    """The JSON of a file that ``key`` of params.yaml leads to.

    Raises ModelError if the file is missing, too large, or not JSON, and if an object has a key twice: libraries
    silently take one of the two values.
    """
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST >> 20} MiB")
        return json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{key}: {file} cannot be read: {one_line(error)}.", AGAIN) from error


def read_checked(file: Path, key: str = "model.id") -> dict[str, Any]:
    """The configuration of one part, an object, after `check_keys` and `check_numbers`. Raises ModelError."""
    found = read_config(file, key)
    if not isinstance(found, dict):
        raise ModelError(f"{key}: {file} holds no object of JSON.", AGAIN)
    check_keys(file, found, key)
    check_numbers(file, found, key)
    return found


def check_configs(folder: Path, names: Iterable[str]) -> None:
    """Check the configurations ``names`` of a model in diffusers format. Raises ModelError.

    names: paths below ``folder``; files other than JSON, and vocabularies, are skipped.
    """
    for name in names:
        if name.endswith("model_index.json"):
            check_index(folder / name)
        elif name.endswith(("config.json", "adapter_config.json")):
            found = read_config(folder / name)
            if not isinstance(found, dict):
                raise ModelError(f"model.id: {folder / name} is no object of JSON.", INSTEAD)
            check_keys(folder / name, found)
            if not name.startswith("tokenizer"):  # there a length without a limit is a huge number
                check_numbers(folder / name, found)


def check_index(file: Path) -> None:
    """Every (library, class) of model_index.json must be one of a Stable Diffusion or FLUX model. Raises ModelError."""
    index = read_config(file)
    if not isinstance(index, dict):
        raise ModelError(f"model.id: {file} is no object of JSON.", INSTEAD)
    check_keys(file, index)
    for part, pair in index.items():
        if isinstance(pair, list) and pair not in ([None, None], []) and not _known_pair(part, pair):
            allowed = " or ".join(".".join(one) for one in PAIRS.get(part, ())) or "a scheduler of diffusers"
            what = (
                f"{part} is {json.dumps(pair)[:80]}, and not {allowed}"
                if part in PAIRS or part == "scheduler"
                else f"the part {part} ({json.dumps(pair)[:80]}) belongs to no Stable Diffusion or FLUX model"
            )
            raise ModelError(f"model.id: {file}: {what}.", INSTEAD)


def check_keys(file: Path, config: Any, name: str = "model.id") -> None:
    """Raise ModelError for a key, at any depth, that makes a library execute or download something.

    config: the content of ``file``; name: the key of params.yaml that leads to it.
    """
    for key, value in _items(config):
        if key in RUNS_CODE and value not in (None, False, {}, []):
            raise ModelError(
                f"{name}: {file} has {key} = {json.dumps(value)[:80]}, which would run code of others.", INSTEAD
            )
        if key in FETCHES and value not in PLAIN_ATTENTION and value is not False:
            raise ModelError(
                f"{name}: {file} has {key} = {json.dumps(value)[:80]}, which this program does not use.", INSTEAD
            )
    if file.name == "adapter_config.json":
        raise ModelError(
            f"{name}: {file}: this part was saved with a LoRA beside its weights.",
            "Merge it first (peft: merge_and_unload) and save the model again.",
        )


def check_numbers(file: Path, config: Any, name: str = "model.id") -> None:
    """Raise ModelError for a number that no model has: a library would make room for so many values.

    config: the content of ``file``; name: the key of params.yaml that leads to it.
    """
    for key, value in _items(config):
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int | float) and (
                one != one or MOST < abs(one) < math.inf
            ):  # DPM solvers have -Infinity
                raise ModelError(
                    f"{name}: {file} has {key} = {short(str(one))}, and no model has such a number.", AGAIN
                )


def _known_pair(part: str, pair: list[Any]) -> bool:
    if part == "scheduler":
        return (
            len(pair) == 2
            and pair[0] == "diffusers"
            and isinstance(pair[1], str)
            and bool(SCHEDULER.fullmatch(pair[1]))
        )
    return tuple(pair) in PAIRS.get(part, ()) if all(isinstance(one, str) for one in pair) else False


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value of nested objects and lists; without recursion, because the depth is not limited."""
    rest = [value]
    while rest:
        one = rest.pop()
        if isinstance(one, dict):
            yield from one.items()
            rest += one.values()
        elif isinstance(one, list):
            rest += one
