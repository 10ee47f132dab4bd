"""The model card: description, licence, results, use and origin of the adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ... import __version__
from ...evaluation.labels import SPLITS
from ...evaluation.results import QUESTION
from ...evaluation.tables import table_cells
from ...models.builtin import model_name
from ...models.lora import FILE
from ...params.strict_yaml import dump_yaml
from ...rewards.identity import describe
from . import markdown as md
from .base_model import OPEN, SD1, SD2, SDXL, UNKNOWN, Base
from .front_matter import front_matter
from .merged import FOLDER as MERGED
from .peft_files import CONFIG, WEIGHTS
from .proof import Proof
from .trained import Trained
from .usage import usage

PROCESS = {False: "DDIM", True: "rectified flow as an SDE"}  # by Base.flow
PAPER = """@inproceedings{hu2025dfusion,
  title     = {{D-Fusion}: Direct Preference Optimization for Aligning Diffusion Models with Visually Consistent
               Samples},
  author    = {Hu, Zijing and Zhang, Fengda and Kuang, Kun},
  booktitle = {Proceedings of the 42nd International Conference on Machine Learning},
  series    = {Proceedings of Machine Learning Research},
  volume    = {267},
  year      = {2025}
}"""


def model_card(
    trained: Trained,
    base: Base,
    name: str,
    digest: str,
    dtype: str,
    proofs: list[Proof],
    samples: list[str],
    repository: str = "",
) -> str:
    """README.md of an export. ``digest`` is the hash of kohya's file, ``samples`` are names of pictures, ``repository``
    is its name on a hub, if it is uploaded."""
    from huggingface_hub import ModelCard

    parts = [
        front_matter(trained, base, name),
        f"# {md.text(name)}",
        summary(trained, base),
        "## Licence",
        licence(base),
        "## Results",
        results(trained, samples),
        "## Use",
        usage(trained, base, name, repository),
        "## Files",
        files(name, digest, dtype, proofs),
        "## Training",
        training(trained, base),
        made(trained, name, repository),
        "## Base model",
        pinned(trained, base),
        "## Citation",
        "The method, please cite its paper:",
        md.fence(PAPER, "bibtex"),
    ]
    return str(ModelCard("\n\n".join(parts) + "\n"))  # which reads the front matter back


def summary(trained: Trained, base: Base) -> str:
    """One paragraph."""
    return (
        f"A LoRA for the {'transformer' if base.flow else 'U-Net'} of {md.text(base.id)}, "
        "trained to follow its prompts better by "
        f"{trained.params['algo'].upper()} on {trained.params['pairs']} pairs "
        f"(D-Fusion, ICML 2025), {len(trained.rounds)} online rounds, with dfusion {__version__}. There is no "
        "trigger word. It was trained on the prompts listed below and on no others."
    )


def licence(base: Base) -> str:
    """The licence of the adapter."""
    found = base.licence
    if found in (SD1, SD2, SDXL):
        return (
            f"The weights of {md.text(base.id)} are under the [{found.title}]({found.link}). This adapter was made "
            "from them, so the use-based restrictions of that licence (its Attachment A) hold for the adapter too. "
            "If you pass the adapter on, or let others use it, hand them these restrictions and the licence as "
            "well."
        )
    if found == OPEN:
        return f"The base model is part of dfusion and under the [{found.title}]({found.link}); so is this adapter."
    named = "" if found == UNKNOWN else f" Its model card says {md.text(found.id)}."
    return (
        f"Check the licence of the base model, {md.text(base.id)}, before you use this adapter or pass it on."
        f"{named} If it derives from Stable Diffusion 1.x ([{SD1.title}]({SD1.link})), "
        f"2.x ([{SD2.title}]({SD2.link})) or "
        f"XL ([{SDXL.title}]({SDXL.link})), the use-based restrictions of that licence hold for this adapter, and "
        "for whoever gets it from you."
    )


def results(trained: Trained, samples: list[str]) -> str:
    """The base model against the round, the grid, and single pictures."""
    tables = [
        f"{SPLITS[split].capitalize()}:\n\n{md.table(*table_cells(trained.results, split))}"
        for split in trained.results.rounds[trained.round]
    ]
    return "\n\n".join(
        [
            "Images of fixed seeds. In the row of the base model the mean and its interval; below it the mean and the "
            f"gain over the base model's image of the same prompt and seed, with its interval. {QUESTION}",
            f"Reward: {md.text(describe(trained.results.reward))}.",
            *tables,
            f"![A row of images for each prompt](grid.png)\n\nAfter {trained.round}, a row for "
            "each prompt: first the training prompts, then unseen ones.",
            "Single pictures, with their prompt, seed and settings inside the PNG:",
            " ".join(f"![{Path(sample).stem}]({sample})" for sample in samples),
        ]
    )


def files(name: str, digest: str, dtype: str, proofs: list[Proof]) -> str:
    """What each file is, and how it was checked."""
    merged = any(proof.file == MERGED for proof in proofs)
    rounding = "rounded to half precision" if dtype == "fp16" else "not rounded"
    rows = [
        [FILE, "for diffusers; fp32, with rank and alpha in its header"],
        [f"{WEIGHTS}, {CONFIG}", "for peft's PeftModel.from_pretrained; fp32"],
        [
            f"{name}.safetensors",
            f"for ComfyUI, A1111 and kohya's tools; {dtype}, {rounding}; its hash there is {digest[:12]}",
        ],
        *([[f"{MERGED}/", "the whole model for diffusers, fp32, with this adapter in its weights"]] if merged else []),
        ["grid.png, samples/", "the pictures above"],
    ]
    checked = md.bullets(
        f"{md.text(proof.file)}: differs by at most {proof.error:.2g} from the trained adapter, which itself changes "
        f"the base model's predictions by up to {proof.effect:.2g}"
        for proof in proofs
    )
    said = (
        "diffusers, and peft its own, loaded each file into a fresh model, and noise predictions were compared in fp32 "
        "arithmetic:"
        f"\n\n{checked}"
        if any(proof.file != MERGED for proof in proofs)
        else "The files were not compared with the trained adapter (`--no-check`)."
    )
    return f"{md.table(['file', 'what'], rows)}\n\n{said}"


def training(trained: Trained, base: Base) -> str:
    """The main parameters, the others folded, and the prompts."""
    params = trained.params
    train, sample, lora = params["train"], params["sample"], params["lora"]
    steps = f"{sample['num_steps']} steps"
    rows = [
        ["loss, pairs", f"{params['algo']}, {params['pairs']}"],
        ["rounds", f"{len(trained.rounds)}, the last one {trained.round}"],
        ["images sampled and scored", str(len(trained.history))],
        ["optimizer steps", str(trained.updates)],
        ["learning rate", str(train["learning_rate"])],
        ["LoRA", f"rank and alpha {lora['rank']}, on {', '.join(lora['targets'])}"],
        ["sampling", f"{PROCESS[base.flow]}, {steps}, eta {sample['eta']}, guidance {sample['guidance_scale']}"],
        *([["negative prompt", md.text(negative)]] if (negative := sample.get("negative_prompt")) else []),
        ["reward", reward(params["reward"])],
        ["seed", str(params["seed"])],
    ]
    everything = md.fence(dump_yaml(public(params)), "yaml")
    return "\n\n".join(
        [
            md.table(["parameter", "value"], rows),
            md.folded("All parameters of the run", everything),
            *(
                md.folded(f"{title} ({len(prompts)})", md.bullets(prompts))
                for title, split in (("Training prompts", "train"), ("Unseen test prompts", "test"))
                if (prompts := trained.prompts(split))
            ),
        ]
    )


def reward(section: dict[str, Any]) -> str:
    """The models that scored the images."""
    clip = " ".join(filter(None, (public(section["model"]), section["pretrained"])))
    return ", ".join([clip, *section.get("plugins", {})])


def public(value: Any) -> Any:
    """Parameters without local folders."""
    if isinstance(value, dict):
        return {key: public(one) for key, one in value.items()}
    if isinstance(value, list):
        return [public(one) for one in value]
    if isinstance(value, str):
        prefix, _, path = value.rpartition("local-dir:")
        return f"{value.removesuffix(path)}{Path(path).name}" if Path(path).is_absolute() else value
    return value


def made(trained: Trained, name: str, repository: str) -> str:
    """The commands."""
    push = f" --push {repository}" if repository else ""
    commands = (
        f"dvc repro evaluate@{trained.round}          # with these parameters in params.yaml\n"
        f"dfusion export {trained.round} --name {name}{push}"
    )
    return f"Commands that made it, with dfusion {__version__}:\n\n{md.fence(commands, 'sh')}"


def pinned(trained: Trained, base: Base) -> str:
    """The hashes of the weights."""
    pin = trained.pin
    files = {file: digest for file, digest in pin.get("files", {}).items() if file.endswith(".safetensors")}
    revision = pin.get("revision")
    text = md.text(base.id) + (f", revision {md.text(revision)}" if revision else "")
    if vae := trained.model.vae:
        at = f", revision {md.text(pin['vae_revision'])}" if pin.get("vae_revision") else ""
        text += f", with the autoencoder {md.text(model_name(vae))}{at}"
    if lora := trained.model.lora:
        text += f", with the LoRA {md.text(model_name(lora))} merged into it, which must be loaded as well"
    rows = [[file, digest] for file, digest in sorted(files.items())]
    return f"{text}\n\n{md.table(['file', 'sha256'], rows)}" if rows else text
