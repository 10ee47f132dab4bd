"""Single-file checkpoints (.safetensors): weights without configurations and tokenizer.

The configurations of SD 1.x, SD 2.x and SDXL are built in, and the tokenizer is CLIP's; nothing is downloaded.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, did_you_mean
from .architectures import EDM, KNOWN, family_of_file, marks
from .builtin import MODEL_INDEX, local_path
from .clip_vocabulary import END, clip_tokenizer
from .configs import check_configs
from .kinds import KINDS, pipeline_kind

if TYPE_CHECKING:
    import torch

    from ..params import Model

# model.config -> the architecture, and the prediction type
CONFIGS = {
    "sd15": ("sd15", "epsilon"),
    "sd15-v": ("sd15", "v_prediction"),
    "sd21": ("sd21", "epsilon"),
    "sd21-v": ("sd21-v", "v_prediction"),
    "sdxl": ("sdxl", "epsilon"),
    "sdxl-v": ("sdxl", "v_prediction"),
}
SCALING = {"sd15": 0.18215, "sd21": 0.18215, "sd21-v": 0.18215, "sdxl": 0.13025}  # of latents
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


# Metadata of a file: keys of its state dict, and entries of its header.
FLAGS = {"ss_v_parameterization": "v_prediction", "ss_zero_terminal_snr": "ztsnr"}
SPEC = ("modelspec.prediction_type", "modelspec.predict_key", "modelspec.architecture", "prediction_type", *FLAGS)
PREDICTS = SPEC[:2] + ("prediction_type",)
V_WORDS = re.compile(r"\bv(?:[-_ ]?pred(?:iction)?)?\b|velocity")
PREDICTED = re.compile(rf"eps|noise|{V_WORDS.pattern}")
ZERO_WORDS = re.compile(r"ztsnr|zero[-_ ]?(?:terminal[-_ ]?)?snr")
FOLDERS = ("unet", "vae", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
FILES = (
    "config.json",
    "scheduler_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "adapter_config.json",
)


def load_single_file(file: Path, model: Model, dtype: torch.dtype) -> Any:
    """The pipeline of a checkpoint file. Raises ModelError if its kind is unknown or ambiguous."""
    import diffusers

    with tempfile.TemporaryDirectory() as temporary:
        configs = _configs(file, model, Path(temporary))
        kind = pipeline_kind(model, configs)
        return getattr(diffusers, kind).from_single_file(
            str(file), config=str(configs), dtype=dtype, local_files_only=True, **KINDS[kind]
        )


@dataclass(frozen=True)
class Reading:
    """The configurations of a checkpoint file, and the reason.

    config: a key of ``CONFIGS``; zero_snr: the betas are rescaled to zero terminal SNR, with trailing spacing; read:
    the metadata found in the file, for messages; assumed: choices without metadata or parameter.
    """

    config: str
    zero_snr: bool
    read: tuple[str, ...]
    assumed: tuple[str, ...]

    @property
    def scheduler(self) -> dict[str, Any]:
        """scheduler_config.json."""
        zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if self.zero_snr else {}
        return SCHEDULER | {"prediction_type": CONFIGS[self.config][1]} | zero


def _configs(file: Path, model: Model, folder: Path) -> Path:
    """A folder with the configurations: the user's, or ``folder`` with the built-in ones."""
    if model.config is not None and local_path(model.config).is_dir():
        given = local_path(model.config)
        check_configs(given, [one.relative_to(given).as_posix() for one in config_files(given).values()])
        return given
    found = read_markers(file, model)
    write_configs(folder, *CONFIGS[found.config], zero_snr=found.zero_snr)
    return folder


def config_files(folder: Path) -> dict[str, Path]:
    """The files of a folder of configurations that are read, by their relative path."""
    names = (MODEL_INDEX, *(f"{part}/{name}" for part in FOLDERS for name in FILES))
    return {name: folder / name for name in names if (folder / name).is_file()}


def read_markers(file: Path, model: Model) -> Reading:
    """The file's metadata: keys ``v_pred`` and ``ztsnr``, and the header's ``modelspec`` entries.

    ``model.config`` takes precedence where the metadata is silent or contradictory. Raises ModelError if the prediction
    type of a 2.x model is unknown, if the two contradict each other, and for a prediction that is neither noise nor a
    velocity.
    """
    family, (keys, header) = family_of_file(file), marks(file)
    said = {name: header[name] for name in SPEC if name in header}
    read = (*(f"key {name}" for name in sorted(keys)), *(f"{name} = {value}" for name, value in said.items()))
    text = " ".join(_meaning(name, value) for name, value in said.items())
    is_v, is_epsilon = "v_pred" in keys or bool(V_WORDS.search(text)), bool(re.search(r"\beps(?:ilon)?\b", text))
    zero = "ztsnr" in keys or bool(ZERO_WORDS.search(text))
    _check_known(model, keys, said, read)
    if model.config is not None:
        _check_named(model, family, is_v and not is_epsilon, is_epsilon and not is_v, read)
        return Reading(model.config, zero and model.config.endswith("-v"), read, ())
    if is_v and is_epsilon or zero and not is_v:
        raise ModelError(
            f"model.config: what '{model.id}' says of itself does not agree: {', '.join(read)}.",
            f"Set model.config to {family} (it predicts noise) or {family}-v (a velocity).",
        )
    if family == "sd21" and not (is_v or is_epsilon):  # two models of one shape: at 512 pixels and at 768
        raise ModelError(
            f"model.config: '{model.id}' is a Stable Diffusion 2.x model; its weights do not tell what it predicts.",
            "Set model.config to sd21 (512 pixels, 'base') or sd21-v (768 pixels, v-prediction).",
        )
    assumed = () if is_v or is_epsilon else (f"epsilon: no marker says otherwise (else set model.config: {family}-v)",)
    return Reading(f"{family}-v" if is_v else family, zero, read, assumed)


def _check_known(model: Model, keys: set[str], said: dict[str, str], read: tuple[str, ...]) -> None:
    """Raise ModelError for a file that says it is of another process: EDM, a flow."""
    other = [name for name in PREDICTS if said.get(name, "").strip() and not PREDICTED.search(said[name].lower())]
    if keys & EDM or other:
        raise ModelError(
            f"model.id: '{model.id}' predicts neither noise nor a velocity of DDIM ({', '.join(read)}).",
            "Set model.id to a model that was trained with epsilon or v-prediction.",
        )


def _meaning(name: str, value: str) -> str:
    """A header's entry as words; kohya's trainer writes True and False."""
    if name.startswith("ss_"):
        return FLAGS[name] if value.lower() in ("true", "1") else ""
    return value.lower()


def _check_named(model: Model, family: str, is_v: bool, is_epsilon: bool, read: tuple[str, ...]) -> None:
    """Raise ModelError unless model.config is a known kind with the file's shapes and prediction type."""
    name = str(model.config)
    if name not in CONFIGS:
        raise ModelError(
            f"model.config: '{name}' is neither a folder nor one of {', '.join(CONFIGS)}.", did_you_mean(name, CONFIGS)
        )
    if CONFIGS[name][0].removesuffix("-v") != family:
        raise ModelError(
            f"model.config: '{model.id}' has the shape of {family}, and not of {name}.",
            f"Set model.config to {family} or {family}-v, or to null.",
        )
    predicts_v = CONFIGS[name][1] == "v_prediction"
    if (is_v and not predicts_v) or (is_epsilon and predicts_v):
        raise ModelError(
            f"model.config: '{name}' does not agree with what '{model.id}' says ({', '.join(read)}).",
            f"Set model.config to {family}{'-v' if is_v else ''}, or to null.",
        )


def write_configs(folder: Path, family: str, prediction_type: str, *, zero_snr: bool = False) -> None:
    """Write the files of a repository in diffusers format other than weights.

    family: a key of ``architectures.KNOWN``; zero_snr: betas rescaled to zero terminal SNR, and trailing timesteps.
    """
    known, is_xl = KNOWN[family], family == "sdxl"
    side = {"sample_size": 96} if family.startswith("sd21") and prediction_type == "v_prediction" else {}
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if zero_snr else {}
    _write(folder / "unet/config.json", {"_class_name": "UNet2DConditionModel"} | known.unet | side)
    _write(
        folder / "vae/config.json",
        {"_class_name": "AutoencoderKL", "scaling_factor": SCALING[family], "force_upcast": is_xl} | known.vae,
    )
    _write(folder / "scheduler/scheduler_config.json", SCHEDULER | {"prediction_type": prediction_type} | zero)
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionXLPipeline" if is_xl else "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    } | ({"force_zeros_for_empty_prompt": True} if is_xl else {})
    for number, config in enumerate(known.text):
        index |= _write_text(folder, "_2" if number else "", config, family)
    _write(folder / MODEL_INDEX, index)


def _write_text(folder: Path, suffix: str, config: dict[str, Any], family: str) -> dict[str, Any]:
    """A text encoder's configuration and its tokenizer; returns their entries of the index."""
    kind = config.get("architectures", ["CLIPTextModel"])[0]
    first = not family.startswith("sd21") and not suffix  # OpenAI's CLIP; the others are OpenCLIP's
    _write(
        folder / f"text_encoder{suffix}/config.json",
        {
            "model_type": "clip_text_model",
            "architectures": [kind],
            "hidden_act": "quick_gelu" if first else "gelu",
            "vocab_size": 49408,
            "max_position_embeddings": 77,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
            "projection_dim": 768,
        }
        | config,
    )
    clip_tokenizer(folder / f"tokenizer{suffix}", END if first else "!")
    return {f"text_encoder{suffix}": ["transformers", kind], f"tokenizer{suffix}": ["transformers", "CLIPTokenizer"]}


def _write(file: Path, config: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(config, indent=2) + "\n")
