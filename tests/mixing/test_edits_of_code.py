"""An edit of a comment reruns nothing; one of a formula or a threshold the stages that use it. With git and DVC."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from clones import call, environment

pytestmark = pytest.mark.slow
HARMLESS = {  # file: what is replaced, and by what; empty: at the end
    "dfusion_core/diffusion/ddim.py": ("", "# a comment\n"),
    "dfusion_core/attention/masks.py": ('"""', '"""Edited. '),
    "dfusion_core/models/loading.py": ("raise ModelError(\n", 'raise ModelError(  # edited\n            "edited: "\n'),
    "stages/adopt.py": ("targets adopted", "targets were adopted"),
    "dfusion_core/store/publish.py": ("", "SOMETHING = 1\n"),
    "dfusion_core/params/loading.py": ("", "SOMETHING = 1\n"),
    "dfusion_core/runtime/progress.py": ("a second", "each second"),
    "dfusion_core/errors.py": ("Free space", "Make space"),
}
FORMULAS = {  # file: the commands whose imports reach it
    "dfusion_core/adoption/rule.py": {"adopt"},
    "dfusion_core/extraction/masks.py": {"extract"},
    "dfusion_core/fusion/targets.py": {"fuse"},
    "dfusion_core/training/losses.py": {"train"},
    "dfusion_core/evaluation/diversity.py": {"evaluate"},
    "dfusion_core/rewards/scoring.py": {"score", "adopt", "evaluate"},
    "dfusion_core/diffusion/ddim.py": {"sample", "extract", "fuse", "train", "evaluate"},
    "dfusion_core/prompts/texts.py": {"prompts", "sample", "extract", "evaluate"},
    "stages/init.py": {"init"},
}


@pytest.fixture(scope="module")
def clone(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the clone in which everything was run."""
    folder = Path(shutil.copytree(whole, tmp_path_factory.mktemp("edits") / "clone", symlinks=True))
    call(folder, "dvc", "status")
    return folder


def edit(file: Path, old: str, new: str) -> None:
    """Replace the first `old`, or append."""
    text = file.read_text()
    assert old in text, file
    file.write_text(text.replace(old, new, 1) if old else text + new)


def changed(clone: Path) -> dict[str, list[str]]:
    """The stages that DVC would run again, with the code files among their changed dependencies."""
    status = json.loads(call(clone, "dvc", "status", "--json"))
    return {stage: re.findall(r"results/code/(\w+)\.json", json.dumps(found)) for stage, found in status.items()}


def test_comments_messages_and_log_lines_rerun_nothing(clone: Path) -> None:
    for name, (old, new) in HARMLESS.items():
        edit(clone / name, old, new)
    assert set(changed(clone)) == {"code"}
    said = call(clone, "dvc", "repro")
    assert re.findall(r"Running stage '(.*?)'", said) == ["code"]
    assert changed(clone) == {}
    call(clone, "git", "checkout", "-q", "--", ".")
    call(clone, "dvc", "repro", "-q", "code")


def test_a_formula_reruns_what_it_must(clone: Path) -> None:
    """Each stage that imports the file, and no other."""
    for name, commands in FORMULAS.items():
        edit(clone / name, "", "EDITED = 1\n")
        call(clone, "dvc", "repro", "-q", "-s", "code")
        found = changed(clone)
        assert {stage.split("@")[0].replace("evaluate_base", "evaluate") for stage in found} == commands, name
        assert {command for names in found.values() for command in names} == commands, name
        call(clone, "git", "checkout", "-q", "--", ".")
    call(clone, "dvc", "repro", "-q", "code")


def test_a_threshold_reruns_from_extract_on(clone: Path) -> None:
    edit(clone / "prompts.yaml", "0.05", "0.07")
    assert set(changed(clone)) == {"prompts", "extract@r00"}
    said = call(clone, "dvc", "repro", "extract@r00")
    assert re.findall(r"Running stage '(.*?)'", said) == ["prompts", "extract@r00"]
    call(clone, "git", "checkout", "-q", "--", ".")
    call(clone, "dvc", "repro", "-q", "code")


def test_the_stage_itself_runs_with_the_code_that_dvc_compared(clone: Path) -> None:
    """`dvc repro -s` of one stage compares digests that may be old: it says how to make new ones."""
    edit(clone / "dfusion_core/adoption/rule.py", "", "EDITED = 1\n")
    done = subprocess.run(
        ("dvc", "repro", "-f", "-s", "adopt@r00"),
        cwd=clone,
        env=environment(clone),
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode and "dfusion_core/adoption/rule.py" in done.stderr
    assert "'dvc repro -s code adopt@r00'" in done.stderr
    said = call(clone, "dvc", "repro", "-s", "code", "adopt@r00")
    assert re.findall(r"Running stage '(.*?)'", said)[-1] == "adopt@r00"
    assert "adopt@r00" not in changed(clone)
