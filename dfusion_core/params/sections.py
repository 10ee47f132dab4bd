"""The sections of params.yaml as frozen models that refuse unknown keys.

A field is defined by `paper` (its default is printed in the paper, mostly in Table 3) or by `ours` (the paper gives no
value). docs/parameters.md and the output of `dfusion params` are generated from here.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from .fields import LARGE as LARGE
from .fields import LAST_SEED, Section, ours, paper
from .fields import MANY as MANY
from .layers import Block, Layer, UNetLayer
from .starting import Launcher as Launcher
from .starting import Round as Round
from .starting import Tracking as Tracking
from .training import Train as Train

LARGEST_SIDE = 8192  # pixels of a picture
UNCHOSEN = "CHOOSE-A-COPY-OF-SD-2.1-BASE"  # model.id of the profiles sd21 and sd21-24gb
Algo = Literal["dpo", "ddpo", "dpok"]
Pairs = Literal["dfusion", "naive", "same_noise", "inversion"]


class Model(Section):
    """The diffusion model that is fine-tuned."""

    id: str = ours(
        "micro-world",
        "micro-world or micro-world-flow (built in), a folder in diffusers format, a .safetensors file, or a name on "
        "the Hub",
        min_length=1,
    )
    revision: str | None = ours(
        None, "commit, branch or tag of the Hub repository; null: the newest commit, which init pins"
    )
    variant: str | None = ours(None, "variant of the weight files, e.g. fp16; null: files without a variant")
    config: str | None = ours(
        None,
        "configuration of a single .safetensors file: sd15, sd15-v, sd21, sd21-v (768 pixels, v-prediction), sdxl, "
        "sdxl-v, or a folder with configurations; null: from the file's own metadata",
    )
    vae: str | None = ours(
        None, "another autoencoder: a folder in diffusers format, or a name on the Hub; null: the model's own"
    )
    lora: str | None = ours(
        None,
        "a LoRA that is part of the base model: a file of diffusers, kohya or peft, or a folder with one; every stage "
        "merges it into the weights",
    )
    dtype: Literal["auto", "fp32", "fp16", "bf16"] = ours(
        "fp32", "data type of the frozen weights and of their arithmetic"
    )
    device: str = ours(
        "auto",
        "auto, cpu, mps, cuda or cuda:N; auto: a GPU if there is one",
        pattern=r"^(auto|cpu|mps|cuda(:\d{1,2})?)$",
    )
    compile: bool = ours(
        False,
        "compile the network with torch.compile: takes minutes for each batch size, then forward passes are faster",
    )
    gradient_checkpointing: bool = ours(False, "recompute activations in the backward pass: less memory, more time")
    vae_slicing: bool = ours(False, "decode one picture at a time: less memory")
    vae_tiling: bool = ours(False, "decode pictures that are larger than the autoencoder's own size in blended tiles")

    long_prompts: Literal["cut", "refuse", "chunks"] = ours(
        "cut",
        "prompts that are longer than the encoder's limit: cut with a warning, refuse, or encode in chunks, as ComfyUI "
        "and A1111 do",
    )

    @field_validator("id")
    @classmethod
    def _is_chosen(cls, value: str) -> str:
        if value == UNCHOSEN:
            raise PydanticCustomError(
                "unchosen",
                "has to be chosen, because Stable Diffusion 2.1 left the Hub in November 2025: "
                "run 'dfusion profile sd21 --model ID_OR_FOLDER' (or sd21-24gb); docs/models.md names copies",
            )
        return value


class Lora(Section):
    """The adapter that is trained (the paper gives no rank; the authors' code has 4)."""

    rank: int = ours(4, "rank of the update", ge=1, le=4096)
    targets: tuple[str, ...] = ours(
        ("to_q", "to_k", "to_v", "to_out.0"), "attention layers that get an adapter", min_length=1
    )


class Prompts(Section):
    """The prompts to train and to evaluate on."""

    file: str = ours(
        "dfusion_core/prompts/micro_attribute.yaml",
        "YAML, JSON, JSONL, CSV or TXT file of training and test prompts (docs/prompts.md)",
    )
    train_count: int | None = ours(None, "use the first N training prompts; null: all", ge=1, le=MANY)
    test_count: int | None = ours(None, "use the first N test prompts; null: all", ge=0, le=MANY)


class Sample(Section):
    """How images are sampled (Table 3, Sampling)."""

    num_steps: int = paper(20, "T, the number of denoising steps", ge=2, le=1000)
    eta: float = paper(
        1.0, "noise scale of a step, of DDIM or a rectified flow; without noise a step has no density", gt=0, le=1
    )
    guidance_scale: float = paper(5.0, "scale of classifier-free guidance; 1: no guidance", ge=1, le=1000)
    negative_prompt: str = ours("", "unconditional prompt of guidance, in every stage; no effect at guidance_scale 1")
    images_per_prompt: int = ours(
        16, "K, images per prompt and round (paper: 640 in all)", ge=2, multiple_of=2, le=MANY
    )
    height: int | None = ours(None, "height of a picture in pixels; null: the model's own size", ge=1, le=LARGEST_SIDE)
    width: int | None = ours(None, "width of a picture in pixels; null: the model's own size", ge=1, le=LARGEST_SIDE)
    batch_size: int = paper(4, "images denoised together", ge=1, le=MANY)
    maps: UNetLayer | Literal["same_resolution"] | Block = paper(
        "up_1",
        "layer whose cross-attention maps are averaged and stored (the first up layer with attention is up_1 in SD 1 "
        "and 2, up_0 in SDXL; of a transformer block_N or single_N); same_resolution: all layers of that resolution "
        "(authors' code)",
    )


class Reward(Section):
    """The reward R(x_0, c)."""

    model: str = paper("ViT-H-14", "OpenCLIP architecture, or a local folder in OpenCLIP format")
    pretrained: str = paper("laion2b_s32b_b79k", "OpenCLIP weights of that architecture")
    batch_size: int = ours(64, "images scored together", ge=1, le=MANY)
    weight: float = ours(1.0, "weight of CLIPScore in the reward", ge=-LARGE, le=LARGE)
    plugins: dict[str, Annotated[float, Field(ge=-LARGE, le=LARGE)]] = ours(
        {}, "further rewards and their weights: {NAME or module:Class: weight} (docs/rewards.md)"
    )
    human: float = ours(
        0.0,
        "weight of people's preferences in the reward (docs/labels.md); 0: none are needed",
        ge=-LARGE,
        le=LARGE,
    )
    human_answers: float = ours(
        1.0, "share of the recommended number of answers (docs/labels.md) for which score waits", gt=0, le=1000
    )
    human_targets: Literal["people", "head"] = ours(
        "people",
        "who compares targets with references: people, or a head on CLIP's embeddings that is fitted on their answers "
        "about the sampled images",
    )


class Extract(Section):
    """Masks from cross-attention (Eq. 4), and stored keys and values."""

    threshold: Literal["absolute", "relative"] = paper(
        "absolute", "thr_o: absolute, as in Tables 4-6, or relative, a multiple of the map's mean"
    )
    relative_threshold: float = ours(1.0, "the multiple of the map's mean for threshold: relative", gt=0, le=LARGE)
    merge: Literal["xor", "or"] = paper("xor", "merge item masks by XOR (Eq. 4) or by OR (authors' code)")
    keep_kv: Literal["all", "none"] | int = ours(
        "all", "references whose K and V are stored: all, none, or the first N; those of the others are recomputed"
    )


class Fuse(Section):
    """Where and when keys and values are fused (Eq. 5; Table 3, Fusion)."""

    layers: tuple[Layer, ...] = paper(
        ("mid", "up_1", "up_2", "up_3"),
        "layers whose self-attention is fused; the default is layers 3-6 of the paper; of a transformer block_N or "
        "single_N",
        min_length=1,
    )
    first_t: int = paper(18, "first fused timestep t", ge=1)
    last_t: int = paper(1, "last fused timestep t", ge=1)
    batch_size: int = ours(4, "targets denoised together", ge=1, le=MANY)


class Pairing(Section):
    """Assignment of references to bases (Algorithm 1)."""

    mode: Literal["halves", "top_quarter_twice"] = paper(
        "halves", "best half with worst half, or the best quarter twice with the worst half (authors' code)"
    )


class Adopt(Section):
    """Adoption of targets (Eq. 7)."""

    enabled: bool = paper(True, "false: every target is adopted")
    threshold: float = paper(
        1.0, "thr_ado: share of the reference's lead over the base that a target must reach", ge=0, le=1000
    )
    fallback: Literal["reference", "drop"] = paper(
        "reference", "a pair whose target is not adopted: reference makes its reference the winner, drop leaves it out"
    )


class Evaluate(Section):
    """Images of fixed seeds, by which rounds are compared."""

    images_per_prompt: int = ours(4, "images per prompt", ge=1, le=MANY)
    train_count: int | None = ours(
        None, "use the first N training prompts; null: all that are trained on", ge=0, le=MANY
    )
    test_count: int | None = ours(None, "use the first N test prompts; null: all", ge=0, le=MANY)
    batch_size: int = ours(4, "images denoised together", ge=1, le=MANY)
    seed: int = ours(1, "seed of the evaluation images, the same in every round", ge=0, le=LAST_SEED)


class Everything(Section):
    """The whole of params.yaml."""

    algo: Algo = paper("dpo", "the loss that trains the adapter: Eq. 6, 8 or 9")
    pairs: Pairs = paper("dfusion", "how pairs are made: by D-Fusion or by a method to compare with (docs/pipeline.md)")
    seed: int = ours(
        0, "the noise of an image depends on this, the round, the prompt and the sample", ge=0, le=LAST_SEED
    )
    rounds: dict[str, Round] = ours(
        {"r00": Round(prev="init")}, "the online rounds by name, each with its previous round"
    )
    model: Model = Model()
    lora: Lora = Lora()
    prompts: Prompts = Prompts()
    sample: Sample = Sample()
    reward: Reward = Reward()
    extract: Extract = Extract()
    fuse: Fuse = Fuse()
    pairing: Pairing = Pairing()
    adopt: Adopt = Adopt()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    tracking: Tracking = Tracking()
    launcher: Launcher = Launcher()
