"""What an export says: Markdown that prompts cannot break out of, generation parameters, names and licences."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from dfusion_core import __version__
from dfusion_core.commands.export import markdown as md
from dfusion_core.commands.export.base_model import OPEN, SD1, SD2, SDXL, UNKNOWN, Base, identify, licence
from dfusion_core.commands.export.card import licence as licence_section
from dfusion_core.commands.export.card import public
from dfusion_core.evaluation.infotext import Adapter, pictures_text, png
from dfusion_core.params import Sample

NASTY = [
    "a | b `c` <script>alert(1)</script>",
    "1. **bold** _it_ [x](http://e.x) ![y](z)",
    "- a\n# b\n\n<!-- c",
    "$a$ ~~b~~ \\| &copy; &lt;",
    "---",
    "2) ```\ncode",
    "a\u202eb\x07c",
]
SAMPLE = Sample(num_steps=20, eta=1.0, guidance_scale=5.0)


def tokens(text: str) -> list[tuple[str, str]]:
    """(type, content) of everything that a Markdown reader with HTML and tables finds."""
    found = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)
    return [(one.type, one.content) for token in found for one in (token, *(token.children or []))]


def plain(prompt: str) -> str:
    """What should be read: one line, nothing invisible."""
    return "".join(c for c in " ".join(prompt.split()) if c.isprintable())


@pytest.mark.parametrize("prompt", NASTY)
def test_a_prompt_is_text_and_nothing_else(prompt: str) -> None:
    kinds = {
        "bullet_list_open",
        "list_item_open",
        "paragraph_open",
        "inline",
        "text",
        "text_special",
        "paragraph_close",
        "list_item_close",
        "bullet_list_close",
    }
    found = tokens(md.bullets([prompt, "next"]))
    assert {kind for kind, _ in found} <= kinds
    assert "".join(content for kind, content in found if kind == "text") == f"{plain(prompt)}next"


@pytest.mark.parametrize("prompt", NASTY)
def test_a_prompt_in_a_table(prompt: str) -> None:
    found = tokens(md.table(["a", "b"], [[" ".join(prompt.split()), "x\ny"]]))
    assert [kind for kind, _ in found].count("td_open") == 2
    assert [content for kind, content in found if kind == "html_inline"] == ["<br>"]
    cells = [content for kind, content in found if kind == "text"]
    assert "".join(cells) == f"ab{plain(prompt)}xy"


def test_numbers_stay_readable() -> None:
    assert md.text("0.7431") == "0.7431" and md.text("-0.2") == "-0.2"


def test_code_cannot_end_its_block() -> None:
    code = "a: '```'\n````\n# b"
    found = tokens(md.fence(code, "yaml"))
    assert found == [("fence", f"{code}\n")]


def fields(text: str) -> tuple[str, dict[str, str]]:
    """The prompt and the settings, read as A1111 documents them: the last line, `name: value` and commas."""
    *prompt, last = text.split("\n")
    found = dict(re.findall(r'(\w[\w ]*): ("(?:\\.|[^"\\])*"|[^,]*)(?:, |$)', last))
    return "\n".join(prompt), {key: json.loads(value) if value[:1] == '"' else value for key, value in found.items()}


def test_generation_parameters() -> None:
    text = pictures_text(
        SAMPLE,
        size=(512, 768),
        model="org/model",
        prompt="a cat",
        seed=2**62,
        adapter=Adapter("cats-r01", "0123456789abcdef"),
    )
    assert text == (
        "a cat <lora:cats-r01:1>\nSteps: 20, Sampler: DDIM, CFG scale: 5.0, Seed: 4611686018427387904, Size: 512x768, "
        f'Model: org/model, Eta DDIM: 1.0, Lora hashes: "cats-r01: 0123456789ab", Version: dfusion {__version__}'
    )


def test_generation_parameters_of_a_sheet() -> None:
    """Many prompts and seeds: only what they share. A name with the form's marks is quoted."""
    prompt, found = fields(pictures_text(SAMPLE, size=(64, 64), model='a, b: "c"'))
    assert prompt == "" and found == {
        "Steps": "20",
        "Sampler": "DDIM",
        "CFG scale": "5.0",
        "Size": "64x64",
        "Model": 'a, b: "c"',
        "Eta DDIM": "1.0",
        "Version": f"dfusion {__version__}",
    }


@pytest.mark.parametrize("prompt", ["a\nNegative prompt: b\nSteps: 1, Seed: 2, Size: 1x1", "ein Käse", "猫 <script>"])
def test_the_text_is_in_the_png(prompt: str) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    image = Image.open(io.BytesIO(png(pixels, pictures_text(SAMPLE, size=(4, 4), model="m", prompt=prompt, seed=7))))
    assert np.array_equal(np.asarray(image), pixels)
    read, found = fields(image.info["parameters"])
    assert read == " ".join(prompt.split()) and found["Seed"] == "7" and found["Steps"] == "20"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("micro-world", OPEN),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", SD1),
        ("CompVis/stable-diffusion-v1-4", SD1),
        ("some-mirror/stable-diffusion-2-1-base", SD2),
        ("/models/stable-diffusion-2-1", SD2),
        ("stabilityai/stable-diffusion-xl-base-1.0", SDXL),
        ("me/stable-diffusion-2-1-cats", UNKNOWN),
        ("x/y", UNKNOWN),
    ],
)
def test_licences(model: str, expected: object) -> None:
    assert licence(model) == expected


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: cc-by-4.0\n---\n# x\n", "cc-by-4.0"),
        ("---\nlicense: [a, b]\n---\n", "other"),
        ("---\nlicense: '<script>'\n---\n", "other"),
        ("---\na: {\n---\n", "other"),
        ("# no head\n", "other"),
        ("---\n- 1\n---\n", "other"),
    ],
)
def test_the_licence_of_a_local_model_card(tmp_path: Path, card: str, expected: str) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence(str(tmp_path)).id == expected


def config(**values: object) -> SimpleNamespace:
    """What is read of a U-Net's config: SD 2.x unless changed."""
    return SimpleNamespace(
        **{
            "addition_embed_type": None,
            "block_out_channels": [320, 640, 1280, 1280],
            "cross_attention_dim": 1024,
            **values,
        }
    )


def test_the_base_model_is_named_without_paths(tmp_path: Path) -> None:
    hub = identify("org/model", config(), "epsilon")
    assert (hub.id, hub.on_hub, hub.version, hub.known) == ("org/model", True, "sd_v2", True)
    local = identify(str(tmp_path / "secret" / "sd21"), config(), "v_prediction")
    assert (local.id, local.on_hub, local.version, local.v_prediction) == ("sd21", False, "sd_v2_v", True)
    other = identify("org/other", config(cross_attention_dim=99), "epsilon")
    assert (other.version, other.known, other.sgm) == ("org/other", False, False)


def test_parameters_are_shown_without_paths() -> None:
    value = {"a": ["/data/me/x.yaml", 1], "b": {"model": "local-dir:/data/clip"}, "c": "prompts/x.yaml", "d": None}
    assert public(value) == {"a": ["x.yaml", 1], "b": {"model": "local-dir:clip"}, "c": "prompts/x.yaml", "d": None}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (SD1, "use-based restrictions of that licence (its Attachment A) hold for the adapter too"),
        (SD2, "[CreativeML Open RAIL++-M](https://github.com/Stability-AI/stablediffusion/blob/main/LICENSE-MODEL)"),
        (OPEN, "so is this adapter"),
        (UNKNOWN, "Check the licence of the base model, org/model, before you use"),
    ],
)
def test_terms_are_passed_on(found: object, said: str) -> None:
    base = Base(id="org/model", on_hub=True, version="sd_v1", v_prediction=False, sgm=False, licence=found)
    assert said in licence_section(base)
