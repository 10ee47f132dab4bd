"""The sections of params.yaml, as frozen models that refuse unknown keys.

Every field is made by `paper` (the default is printed in the paper, mostly in Table 3) or by `ours` (the
paper does not give the value). The documentation page and `dfusion params` are generated from here.
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
        None, "commit, branch or tag of the Hub repository; null takes the newest, which init pins"
    )
    variant: str | None = ours(None, "variant of the weights, as fp16; null takes the plain files")
    config: str | None = ours(
        None,
        "of a single .safetensors file: sd15, sd15-v, sd21, sd21-v (768 pixels, v-prediction), sdxl, sdxl-v, or "
        "a folder with the configurations; null reads the file's markers",
    )
    vae: str | None = ours(
        None, "another autoencoder: a folder in diffusers format, or a name on the Hub; null takes the model's own"
    )
    lora: str | None = ours(
        None,
        "a LoRA that the base model has already: a file of diffusers, kohya or peft, or a folder with one; merged into "
        "the weights in every stage",
    )
    dtype: Literal["auto", "fp32", "fp16", "bf16"] = ours("fp32", "arithmetic of the frozen weights")
    device: str = ours(
        "auto",
        "auto, cpu, cuda or cuda:N; auto takes a GPU if there is one",
        pattern=r"^(auto|cpu|mps|cuda(:\d{1,2})?)$",
    )
    compile: bool = ours(
        False, "compile the U-Net with torch.compile: minutes once for each size of batch, then faster forwards"
    )
    gradient_checkpointing: bool = ours(
        False, "training computes the U-Net's blocks again instead of keeping what they hold: less memory, more time"
    )
    vae_slicing: bool = ours(False, "decode one picture at a time, in less memory")
    vae_tiling: bool = ours(
        False, "decode pictures that are larger than the autoencoder's own size in tiles that are blended"
    )

    long_prompts: Literal["cut", "refuse", "chunks"] = ours(
        "cut",
        "a prompt that is longer than its encoder reads: cut it and warn, refuse it, or encode it in chunks side by "
        "side, as user interfaces do",
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
    """What is drawn."""

    file: str = ours(
        "dfusion_core/prompts/micro_attribute.yaml",
        "YAML, JSON, JSONL, CSV or TXT file of prompts, to train on and to look at (docs/prompts.md)",
    )
    train_count: int | None = ours(None, "use the first N training prompts; null takes all", ge=1, le=MANY)
    test_count: int | None = ours(None, "use the first N test prompts; null takes all", ge=0, le=MANY)


class Sample(Section):
    """How images are sampled (Table 3, Sampling)."""

    num_steps: int = paper(20, "T, the number of denoising steps", ge=2, le=1000)
    eta: float = paper(
        1.0, "noise weight of DDIM, or of a rectified flow; must be above 0, or no step has a probability", gt=0, le=1
    )
    guidance_scale: float = paper(5.0, "classifier-free guidance; 1 is none", ge=1, le=1000)
    negative_prompt: str = ours(
        "", "what guidance leads away from, in every stage; empty: the empty prompt. Without effect at guidance 1"
    )
    images_per_prompt: int = ours(
        16, "K, images of one prompt in a round (paper: 640 in all)", ge=2, multiple_of=2, le=MANY
    )
    height: int | None = ours(
        None, "pixels of a picture from top to bottom; null takes the model's own size", ge=1, le=LARGEST_SIDE
    )
    width: int | None = ours(
        None, "pixels of a picture from left to right; null takes the model's own size", ge=1, le=LARGEST_SIDE
    )
    batch_size: int = paper(4, "images denoised together", ge=1, le=MANY)
    maps: UNetLayer | Literal["same_resolution"] | Block = paper(
        "up_1",
        "average the cross-attention maps of this layer (the first up layer with attention: up_1 in SD 1 and 2, "
        "up_0 in SDXL; a transformer's block_N or single_N), or of all layers of its resolution (authors' code)",
    )


class Reward(Section):
    """R(x_0, c): what makes one image better than another."""

    model: str = paper("ViT-H-14", "OpenCLIP architecture, or a local folder in OpenCLIP format")
    pretrained: str = paper("laion2b_s32b_b79k", "OpenCLIP weights of that architecture")
    batch_size: int = ours(64, "images scored together", ge=1, le=MANY)
    weight: float = ours(1.0, "weight of CLIPScore in the reward; 0 leaves it to the plug-ins", ge=-LARGE, le=LARGE)
    plugins: dict[str, Annotated[float, Field(ge=-LARGE, le=LARGE)]] = ours(
        {}, "further rewards with their weights: {NAME or module:Class: weight}, see docs/rewards.md"
    )
    human: float = ours(
        0.0,
        "weight of people's preferences, given with dfusion label (docs/labels.md); 0 asks nobody",
        ge=-LARGE,
        le=LARGE,
    )
    human_answers: float = ours(
        1.0, "share of the answers that make an order reliable (docs/labels.md) for which score waits", gt=0, le=1000
    )
    human_targets: Literal["people", "head"] = ours(
        "people",
        "who says whether a target is as good as its reference: people, or a head on CLIP's embeddings that "
        "is fitted on their answers about the sampled images",
    )


class Extract(Section):
    """Masks from cross-attention (Eq. 4), and what is kept for fusion."""

    threshold: Literal["absolute", "relative"] = paper(
        "absolute", "thr_o as in Tables 4-6, or a multiple of the map's mean"
    )
    relative_threshold: float = ours(1.0, "the multiple of the map's mean, for threshold: relative", gt=0, le=LARGE)
    merge: Literal["xor", "or"] = paper("xor", "merge item masks by XOR (Eq. 4) or by OR (authors' code)")
    keep_kv: Literal["all", "none"] | int = ours(
        "all", "references whose K and V are stored: all, none, or the first N; the rest is recomputed"
    )


class Fuse(Section):
    """Where and when keys and values are fused (Eq. 5; Table 3, Fusion)."""

    layers: tuple[Layer, ...] = paper(
        ("mid", "up_1", "up_2", "up_3"),
        "U-Net layers 3-6 of the paper, by name; of a transformer block_N or single_N",
        min_length=1,
    )
    first_t: int = paper(18, "fuse from this t ...", ge=1)
    last_t: int = paper(1, "... down to this t", ge=1)
    batch_size: int = ours(4, "targets denoised together", ge=1, le=MANY)


class Pairing(Section):
    """Which reference goes with which base (Algorithm 1)."""

    mode: Literal["halves", "top_quarter_twice"] = paper(
        "halves", "best half with worst half, or the top quarter twice (authors' code)"
    )


class Adopt(Section):
    """Keep a target only if it is as good as its reference (Eq. 7)."""

    enabled: bool = paper(True, "false keeps every target")
    threshold: float = paper(
        1.0, "thr_ado: share of the lead of the reference over the base that the target must reach", ge=0, le=1000
    )
    fallback: Literal["reference", "drop"] = paper(
        "reference", "what becomes of a pair whose target is not good enough: its reference wins, or it is dropped"
    )


class Evaluate(Section):
    """Images of fixed seeds, to compare rounds with one another."""

    images_per_prompt: int = ours(4, "images of one prompt", ge=1, le=MANY)
    train_count: int | None = ours(
        None, "the first N training prompts; null takes all that are trained on", ge=0, le=MANY
    )
    test_count: int | None = ours(None, "the first N test prompts; null takes all", ge=0, le=MANY)
    batch_size: int = ours(4, "images denoised together", ge=1, le=MANY)
    seed: int = ours(1, "seed of the evaluation images, the same in every round", ge=0, le=LAST_SEED)


class Everything(Section):
    """The whole of params.yaml."""

    algo: Algo = paper("dpo", "which loss trains the adapter: Eq. 6, 8 or 9")
    pairs: Pairs = paper("dfusion", "how pairs are made: the method, or one of those it is compared with")
    seed: int = ours(0, "every noise follows from this, the round, the prompt and the sample", ge=0, le=LAST_SEED)
    rounds: dict[str, Round] = ours(
        {"r00": Round(prev="init")}, "the online rounds, by name, each with the one before it"
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
