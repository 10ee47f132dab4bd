"""The folders of one run of a stage: its scratch folder and its output."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from . import atomic, disk, scratch
from .manifest import read_manifest
from .parts import Parts
from .paths import output
from .provenance import changes, hash_of
from .publish import assemble, clean, publish, write_manifest
from .verify import check


class Workplace:
    """The folders of one run. `made_of`: everything that its rows depend on; `say` prints a line about the run."""

    def __init__(self, fingerprint: str, made_of: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self.stage, self.round = str(made_of["stage"]), str(made_of["round"])
        self.fingerprint, self.made_of, self.say = fingerprint, made_of, say
        self.output = output(self.stage, self.round)
        self.beside = scratch.beside_the_repository()
        apart = f"experiments/{fingerprint[:16]}" if self.beside else ""
        self.home = scratch.scratch_root() / apart / self.round / self.stage
        self.folder = self.home / hash_of(made_of)[:16]
        self.out = self.folder / scratch.OUT
        self.state = self.folder / "state.safetensors"
        self.parts = Parts(self.stage, self.round, self.folder / scratch.PARTS)

    def is_entered(self) -> bool:
        """Prepare the scratch folder. Returns True if the output needs no more work."""
        if self.is_published(read=True):
            scratch.tidy(self.folder, keep=False)
            clean(self.output)
            self.say(f"is there already ({read_manifest(self.output)['rows']} rows); nothing to do")
            return True
        self._remove_others()
        if not scratch.is_finished(self.folder, self.fingerprint, self.beside):
            self._start()
            return False
        self._put_out()
        self.say("was finished before; it is put back")
        return True

    def is_published(self, read: bool) -> bool:
        """Whether the output has this fingerprint; if not, print why it is made again. `read`: verify its whole
        content.
        """
        if not self.output.is_dir():
            return False
        problems = check(self.output, read=read)
        if problems:
            self.say(f"is made again, because {problems[0].file} {problems[0].what}")
            return False
        manifest = read_manifest(self.output)
        if manifest["fingerprint"] == self.fingerprint:
            return True
        self.say(f"is made again, because {self._why(manifest['ingredients'])}")
        return False

    def publish(self, ingredients: Mapping[str, Any]) -> None:
        """Assemble the arrays from the parts, and publish them with the files in `out`."""
        with atomic.named(self.folder):
            assemble(self.parts, self.out)
            write_manifest(self.out, self.fingerprint, ingredients, self.parts.count)
            self._put_out()

    def require_space(self, rows: int, values: Mapping[str, Any]) -> None:
        """Raise StoreError if the missing parts, and the arrays assembled from all parts, do not fit on the disks.

        `values` are those of `rows` rows.
        """
        import numpy as np

        sizes = {name: np.asarray(value).nbytes // rows for name, value in values.items()}
        arrays = self.parts.count * sum(size for name, size in sizes.items() if not name.startswith("_"))
        parts = sum(map(len, self.parts.unfinished())) * sum(sizes.values())
        disk.require_space(self.stage, self.round, self.folder, parts + arrays)
        if disk.device(self.folder) != disk.device(self.output):
            disk.require_space(self.stage, self.round, self.output, arrays)

    def _put_out(self) -> None:
        publish(self.out, self.output)
        scratch.tidy(self.folder, keep=scratch.under_dvc())

    def _remove_others(self) -> None:
        """Remove the scratch of other fingerprints, with a message why, and the `published/` of other stages."""
        others = [path for path in self.home.glob("*") if path != self.folder and path.is_dir()]
        for other in others:
            if not other.name.startswith("."):
                self.say(f"starts from the beginning, because {self._why(scratch.saved_ingredients(other))}")
            atomic.remove_folder(other)
        scratch.forget_published(self.home)

    def _start(self) -> None:
        """Enter the scratch folder of this fingerprint."""
        atomic.remove_folder(self.out)  # written again after the last part, in case a library left an incomplete file
        atomic.make_folder(self.out)
        disk.require_writable(self.out)
        disk.require_writable(self.output.parent)
        atomic.remove_leftovers(self.folder)
        atomic.write_text(self.folder / scratch.INGREDIENTS, json.dumps(self.made_of, sort_keys=True))

    def _why(self, old: Mapping[str, Any]) -> str:
        reasons = changes(old, self.made_of) or ["it was made by something else"]
        more = [f"{len(reasons) - 5} more changes"] if len(reasons) > 5 else []
        return "; ".join(reasons[:5] + more)
