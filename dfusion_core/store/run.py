"""Stage outputs that are complete or not there, and a scratch folder from which the same command continues.

A stage writes parts into `<scratch>/<round>/<stage>/<fingerprint>/`. When all are there, they are assembled
into one folder; a copy of it becomes `runs/<round>/<stage>` by one rename. Scratch of another fingerprint is not read.

Scratch lives in `$DFUSION_SCRATCH`, else `$DVC_ROOT/.dfusion`, else `./.dfusion`: DVC deletes outputs before
it runs a stage, and inside `dvc exp run --temp` and `dvc queue start` DVC_ROOT is still the real repository. There
each fingerprint has a home of its own, so that experiments side by side leave each other's work alone.
"""

import gc
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import NotFinite, StoreError
from ..runtime import ranks
from ..runtime.progress import track
from . import atomic, disk, scratch, tensors
from .inputs import ingredients
from .lock import Lock
from .manifest import read_manifest
from .parts import Parts
from .paths import output
from .provenance import changes, environment, hash_of
from .publish import assemble, clean, publish, write_manifest
from .reading import StageData, read_stage
from .tensors import AnyArray
from .verify import Problem, check, verify

if TYPE_CHECKING:
    import pandas as pd

    from ..params import Params

__all__ = [
    "Problem",
    "StageData",
    "StageRun",
    "open_stage",
    "read_stage",
    "verify",
]

State = tuple[dict[str, AnyArray], dict[str, Any]]


def open_stage(
    stage: str,
    *,
    round: str,
    params: "Params | Mapping[str, Any] | None" = None,
    inputs: Mapping[str, str | Path] | None = None,
) -> "StageRun":
    """The run of one stage, as a context manager: `with open_stage("sample", round="r00", ...) as run:`.

    On a clean exit the output is published; on an exception what is finished stays in scratch. Raises
    MissingStage for an input that is not there, StoreError if another process runs this stage.
    """
    values = params if isinstance(params, Mapping) else params.for_fingerprint() if params is not None else {}
    paths = {name: Path(path) for name, path in (inputs or {}).items()}
    return StageRun(stage, round, ingredients(stage, round, values, paths))


class StageRun:
    """One run of one stage. `done` says that a published output of this very fingerprint is there already."""

    def __init__(self, stage: str, round: str, ingredients: dict[str, Any]) -> None:
        self.stage, self.round = stage, round
        self.ingredients, self.fingerprint = ingredients, hash_of(ingredients)
        self._made_of = {**ingredients, "environment": environment()}  # rows of two versions of a library do not mix
        self.done = False
        self.describe: Callable[[int], str] = lambda row: ""  # a stage sets it to say a row's prompt and seed
        self.output = output(stage, round)
        self._beside = scratch.beside_the_repository()
        apart = f"experiments/{self.fingerprint[:16]}" if self._beside else ""
        self._home = scratch.scratch_root() / apart / round / stage
        self._scratch = self._home / hash_of(self._made_of)[:16]
        self._parts = Parts(stage, round, self._scratch / scratch.PARTS)
        self._has_space = False  # this run has looked, or is not the one to look
        self._progress: Iterator[range] | None = None
        self._part = range(0)  # the rows that are being made; empty outside `unfinished`
        self._collected = gc.isenabled()

    def __enter__(self) -> "StageRun":
        if ranks.leads():
            what = f"stage {self.stage} of {self.round}"
            self._lock = Lock(self._home.with_name(f"{self.stage}.lock"), what, wait=self._beside)
            try:
                self._enter()
            except BaseException:
                self._lock.release()
                raise
        ranks.wait()
        if not ranks.leads():
            self.done = self._is_published()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._progress is not None:
                self._progress.close()  # type: ignore[attr-defined]  # a generator: restores the terminal
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(self._scratch)
            if isinstance(error, NotFinite):
                raise error.named(self._row_name(error.row)) from error
            if kind is None and not self.done:
                ranks.wait()  # for the rows of the others
                if ranks.leads():
                    self._publish()
                ranks.wait()  # what comes next reads the output
        finally:
            if not self._collected:  # as it was before: what comes next imports and loads again
                gc.disable()
            if ranks.leads():
                self._lock.release()

    def expect(self, count: int, batch: int) -> list[range]:
        """Fix the number of rows and the partition into parts; this process's parts that are not finished yet."""
        _collect_garbage()
        if not self.done:
            self._parts.expect(count, batch)
            if ranks.leads() and (damaged := self._parts.clean()):
                self.say(f"makes {damaged} damaged part{'s' * (damaged > 1)} of an earlier run again")
            ranks.wait()
        unfinished = self._parts.unfinished()
        return [rows for rows in ranks.share(self._parts.ranges) if rows in unfinished]

    def unfinished(self, count: int, batch: int) -> Iterator[range]:
        """The unfinished parts of rows [0 .. batch-1], [batch .. 2 batch-1], ..., with progress on stderr."""
        todo = self.expect(count, batch)
        left, mine = sum(map(len, todo)), sum(map(len, ranks.share(self._parts.ranges)))
        if 0 < left < mine:
            of = "" if mine == count else " of this process"
            self.say(f"continues; {mine - left} of {mine} rows{of} were finished before")
        if not ranks.leads():
            return self._note_part(iter(todo))
        self._progress = track(todo, len, mine, mine - left, f"{self.stage} {self.round}")
        return self._note_part(self._progress)

    def _note_part(self, parts: Iterator[range]) -> Iterator[range]:
        for self._part in parts:
            yield self._part
        self._part = range(0)

    def _row_name(self, row: int) -> str:
        """What a row of the batch that is being made is, for messages; outside of batches a row of the whole table."""
        row = self._part[row] if self._part else row
        return self.describe(row) or f"row {row}"

    def track(self, items: Iterable[int], count: int, what: str) -> Iterator[int]:
        """The items one by one, with progress on stderr; the rest of ``count`` was done by an earlier run."""
        _collect_garbage()
        left = list(items)
        if not ranks.leads():
            return iter(left)
        if 0 < len(left) < count:
            self.say(f"continues; {count - len(left)} of {count} {what}s were done before")
        label = f"{self.stage} {self.round} {what}"
        return track(left, lambda _: 1, count, count - len(left), label)

    def write(self, rows: range, **values: Any) -> None:
        """Store arrays for `rows` (first axis), all in one atomic file; does nothing in a run that is done.

        Names are those of the schema; one that begins with `_` is kept for `collect`, not published. Raises
        BadNumber for a NaN or infinity, StoreError for a name, type or shape that the schema does not know.
        """
        self.write_arrays(rows, values)

    def write_arrays(self, rows: range, values: Mapping[str, Any]) -> None:
        """`write` for names that are no Python words, such as `up_1.0/K`."""
        if not self.done:
            self._require_space(len(rows), values)
            self._parts.write(rows, values, self.describe)

    def collect(self, name: str) -> AnyArray:
        """One array or working column of all rows that `unfinished` went through, also in earlier runs."""
        ranks.wait()
        return self._parts.read(name, range(self._parts.count))

    def write_table(self, name: str, frame: "pd.DataFrame") -> None:
        """Store a table as `name`.csv in the output."""
        if not self.done:
            atomic.write_text(self.path(f"{name}.csv"), frame.to_csv(index=False, lineterminator="\n"))

    def save_state(self, arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Replace the saved state (one atomic file): arrays and JSON values, the leader's. Not published."""
        if not ranks.leads():
            return
        import numpy as np

        whole = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        atomic.write_bytes(self._state, tensors.to_bytes(whole, meta))

    def load_state(self) -> State | None:
        """The state saved last, by this run or by one that was interrupted; None if there is none, or a damaged one."""
        if not self._state.exists():
            return None
        try:
            return tensors.read(self._state)
        except StoreError:
            self.say("its saved state is damaged; starts from the beginning")
            return None

    def path(self, name: str) -> Path:
        """Where to write a file of the output that is neither array nor table; its folder is made.

        Every process may write there; the leader's files are published.
        """
        path = self._out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def _out(self) -> Path:
        return self._scratch / (scratch.OUT if ranks.leads() else f"out of rank {ranks.rank()}")

    @property
    def _state(self) -> Path:
        return self._scratch / "state.safetensors"

    def say(self, text: str) -> None:
        """Print one line about this run; the leader does."""
        if ranks.leads():
            print(f"{self.stage} {self.round}: {text}.", flush=True)

    def _enter(self) -> None:
        """What the leader does before the others go on: see what is there, or make room for the work."""
        self.done = self._is_published()
        if self.done:
            scratch.tidy(self._scratch, keep=False)
            clean(self.output)
            rows = read_manifest(self.output)["rows"]
            self.say(f"is there already ({rows} rows); nothing to do")
            return
        self._remove_others()
        self.done = scratch.is_finished(self._scratch, self.fingerprint, self._beside)
        if self.done:
            self._put_out()
            self.say("was finished before; it is put back")
        else:
            self._start()

    def _is_published(self) -> bool:
        """Whether the output has this fingerprint; if not, say why it is made again."""
        if not self.output.is_dir():
            return False
        problems = check(self.output, read=ranks.leads())
        if problems:
            self.say(f"is made again, because {problems[0].file} {problems[0].what}")
            return False
        manifest = read_manifest(self.output)
        if manifest["fingerprint"] == self.fingerprint:
            return True
        self.say(f"is made again, because {self._why(manifest['ingredients'])}")
        return False

    def _remove_others(self) -> None:
        """Remove the scratch of other fingerprints and say why it is of no use, and what other stages have kept."""
        others = [path for path in self._home.glob("*") if path != self._scratch and path.is_dir()]
        for other in others:
            if not other.name.startswith("."):
                self.say(f"starts from the beginning, because {self._why(scratch.saved_ingredients(other))}")
            atomic.remove_folder(other)
        scratch.forget_published(self._home)

    def _start(self) -> None:
        """Enter the scratch folder of this fingerprint."""
        atomic.remove_folder(self._out)  # written again after the last part, whatever a library left half in it
        atomic.make_folder(self._out)
        disk.require_writable(self._out)
        disk.require_writable(self.output.parent)
        atomic.remove_leftovers(self._scratch)
        atomic.write_text(self._scratch / scratch.INGREDIENTS, json.dumps(self._made_of, sort_keys=True))

    def _require_space(self, rows: int, values: Mapping[str, Any]) -> None:
        """With its first part, the leader refuses what the disks cannot hold: all parts and the arrays made of them."""
        if self._has_space or not ranks.leads():
            return
        import numpy as np

        sizes = {name: np.asarray(value).nbytes // rows for name, value in values.items()}
        arrays = self._parts.count * sum(size for name, size in sizes.items() if not name.startswith("_"))
        parts = sum(map(len, self._parts.unfinished())) * sum(sizes.values())
        disk.require_space(self.stage, self.round, self._scratch, parts + arrays)
        if disk.device(self._scratch) != disk.device(self.output):
            disk.require_space(self.stage, self.round, self.output, arrays)
        self._has_space = True

    def _why(self, old: Mapping[str, Any]) -> str:
        reasons = changes(old, self._made_of) or ["it was made by something else"]
        shown = reasons[:5] + ([f"{len(reasons) - 5} more changes"] if len(reasons) > 5 else [])
        return "; ".join(shown)

    def _publish(self) -> None:
        with atomic.named(self._scratch):
            assemble(self._parts, self._out)
            write_manifest(self._out, self.fingerprint, self.ingredients, self._parts.count)
            self._put_out()

    def _put_out(self) -> None:
        publish(self._out, self.output)
        scratch.tidy(self._scratch, keep=scratch.under_dvc())


def _collect_garbage() -> None:
    """Everything is loaded, and in a loop of hours garbage must go; what is there by now stays and is left alone."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
