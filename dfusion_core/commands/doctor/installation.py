"""The installed packages against the bounds that this package declares."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ...errors import one_line
from ...runtime.checkout import other_code
from .facts import Facts
from .findings import Finding, failed, ok, warning

DISTRIBUTION = "dfusion-pipeline"
SHOWN = ("torch", "torchvision", "diffusers", "transformers", "peft", "open_clip_torch", "zarr", "dvc", "pandas")
IMPORTED = ("torch", "torchvision", "diffusers", "transformers", "peft", "open_clip", "zarr", "pandas")


def versions(_: Facts) -> Finding:
    """Python and every declared dependency fulfil the declared bounds."""
    try:
        declared = [Requirement(line) for line in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        return warning(
            f"there is no installed package '{DISTRIBUTION}', so its bounds are not known",
            f"Install it: pip install -e . in a clone, else pip install {DISTRIBUTION}",
        )
    needed = [one for one in declared if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = dict(misfits(needed))
    python = metadata(DISTRIBUTION).json.get("requires_python", "")
    if not SpecifierSet(str(python)).contains(platform.python_version(), prereleases=True):
        return failed(f"Python {platform.python_version()}, and {python} is needed", "Use another Python.")
    if wrong:
        return failed("; ".join(wrong.values()), "pip install --upgrade " + " ".join(f"'{name}'" for name in wrong))
    if other := other_code():
        return warning(*other)
    names = {one.name for one in needed}
    found = ", ".join(f"{name} {version(name)}" for name in SHOWN if name in names)
    return ok(f"Python {platform.python_version()}, {found}")


def misfits(needed: list[Requirement]) -> Iterator[tuple[str, str]]:
    """(requirement, reason) of unfulfilled requirements."""
    for one in needed:
        try:
            there = version(one.name)
        except PackageNotFoundError:
            yield f"{one.name}{one.specifier}", f"{one.name} is not installed"
            continue
        if not one.specifier.contains(there, prereleases=True):
            yield f"{one.name}{one.specifier}", f"{one.name} is {there}, and {one.specifier} is needed"


def imports(_: Facts) -> Finding:
    """The large packages can be imported together; a torchvision built for another torch cannot."""
    broken = {}
    for name in IMPORTED:
        try:
            import_module(name)
        except Exception as error:  # incompatible packages may raise any kind of exception
            broken[name] = f"{name}: {type(error).__name__}: {one_line(error)}"
    if broken:
        return failed("; ".join(broken.values()), "Install torch and torchvision from the same index, then the others.")
    return ok(f"{len(IMPORTED)} packages")
