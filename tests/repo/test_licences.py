"""The licence of everything that an installation brings along: permissive, or known and accepted here with a reason.

What is looked at is what is installed, all that `dfusion-pipeline` requires and what that requires in turn.
"""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement

PERMISSIVE = re.compile(
    r"MIT\b|BSD|Apache|\bISC\b|\bPSF\b|Python Software Foundation|Zope|\bCNRI\b|HPND|Unlicense|zlib", re.IGNORECASE
)
COPYLEFT = re.compile(r"GPL|General Public|MPL|Mozilla|\bEPL|Eclipse|CDDL|EUPL|Proprietary|Commercial", re.IGNORECASE)
ACCEPTED = {
    "asyncssh": "EPL-2.0 or GPL; DVC's way to Git over SSH, not imported here",
    "certifi": "MPL-2.0, a list of certificates, unchanged",
    "dulwich": "Apache-2.0 or GPL: the first is chosen",
    "grandalf": "GPL-2.0; draws 'dvc dag', which runs in DVC's own process",
    "orjson": "MPL-2.0 and Apache-2.0 or MIT, unchanged",
    "pathspec": "MPL-2.0, DVC's reader of .dvcignore, unchanged",
    "pygit2": "GPL-2.0 with an exception for linking, DVC's Git",
    "shtab": "MPL-2.0, DVC's completion for shells, unchanged",
    "tqdm": "MPL-2.0 and MIT, unchanged",
}
CUDA = re.compile(r"nvidia-.*|cuda-.*|triton")  # come with torch for GPUs, under NVIDIA's terms; a CPU's torch has none


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required(name: str, extras: tuple[str, ...], found: dict[str, Distribution]) -> dict[str, Distribution]:
    """What a package requires, directly or not, as far as it is installed."""
    try:
        here = distribution(name)
    except PackageNotFoundError:  # of another platform
        return found
    if normal(name) not in found:
        found[normal(name)] = here
        for text in here.requires or ():
            one = Requirement(text)
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras or ("",)):
                required(one.name, tuple(one.extras), found)
    return found


def licence(package: Distribution) -> str:
    """The expression, else the classifiers, else the beginning of the text."""
    data = package.metadata
    classifiers = [one.split("::")[-1].strip() for one in data.get_all("Classifier") or () if one.startswith("License")]
    return data["License-Expression"] or "; ".join(classifiers) or (data["License"] or "none given")[:100]


def is_permissive(text: str) -> bool:
    return bool(PERMISSIVE.search(text)) and not COPYLEFT.search(text)


def test_every_licence_is_known() -> None:
    found = required("dfusion-pipeline", ("8bit", "inspect", "plots", "s3", "tensorboard", "tour", "wandb", ""), {})
    assert len(found) > 50
    unknown = {
        name: licence(one)
        for name, one in sorted(found.items())
        if not is_permissive(licence(one)) and name not in ACCEPTED and not CUDA.fullmatch(name)
    }
    assert {name: text for name, text in unknown.items() if name != "dfusion-pipeline"} == {}


@pytest.mark.parametrize(
    ("text", "permissive"),
    [
        ("MIT", True),
        ("Apache-2.0", True),
        ("BSD License", True),
        ("GPL-2.0-or-later", False),
        ("none given", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("Apache-2.0 OR GPL-2.0-or-later", False),
        ("LicenseRef-NVIDIA-Proprietary", False),
        ("Mozilla Public License 2.0 (MPL 2.0)", False),
    ],
)
def test_what_counts_as_permissive(text: str, permissive: bool) -> None:
    assert is_permissive(text) is permissive
