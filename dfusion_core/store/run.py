"""Stage outputs that are complete or absent, and a scratch folder from which the same command continues.

A stage writes parts into `<scratch>/<round>/<stage>/<fingerprint>/`. When all are finished, they are assembled
into one folder; a copy of it becomes `runs/<round>/<stage>` by one rename. Scratch of another fingerprint is not read.

Everything that the rows depend on is read again before they are published (`basis.py`). `scratch.py` has the paths.
"""

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import NotFinite, StoreError
from ..runtime import ranks
from ..runtime.collective import wait
from ..runtime.progress import track
from . import atomic, tensors
from .basis import Basis
from .inputs import Input
from .lock import Lock
from .provenance import environment, hash_of
from .tensors import AnyArray
from .workplace import Workplace

if TYPE_CHECKING:
    import pandas as pd

    from ..params import Params

State = tuple[dict[str, AnyArray], dict[str, Any]]


def open_stage(
    stage: str,
    *,
    round: str,
    params: "Params | Mapping[str, Any] | None" = None,
    inputs: Mapping[str, str | Input] | None = None,
) -> "StageRun":
    """The run of one stage, as a context manager: `with open_stage("sample", round="r00", ...) as run:`.

    An input is a published folder, a file, a folder that is read whole, or the files that are read. On a clean exit the
    output is published; on an exception finished rows stay in scratch. Raises MissingStage for a missing
    input, StoreError if one is damaged or of another run, if another process runs this stage, and on exit if
    params.yaml, an input or the code has changed.
    """
    paths = {name: Path(one) if isinstance(one, str) else one for name, one in (inputs or {}).items()}
    return StageRun(Basis(stage, round, params, paths))


class StageRun:
    """One run of one stage. `done`: a published output with this fingerprint exists already."""

    def __init__(self, basis: Basis) -> None:
        self.stage, self.round = basis.stage, basis.round
        self._basis, self.ingredients = basis, basis.ingredients
        self.fingerprint = hash_of(self.ingredients)
        made_of = {**self.ingredients, "environment": environment()}  # rows of two library versions are not mixed
        self.done = False
        self.describe: Callable[[int], str] = lambda row: ""  # set by a stage: prompt and seed of a row, for messages
        self._place = Workplace(self.fingerprint, made_of, self.say)
        self._parts = self._place.parts
        self._has_space = False  # checked by the leader, with its first part
        self._progress: Iterator[range] | None = None
        self._part = range(0)  # the rows in progress; empty outside `unfinished`
        self._collected = gc.isenabled()

    def __enter__(self) -> "StageRun":
        if ranks.leads():
            what, place = f"stage {self.stage} of {self.round}", self._place
            self._lock = Lock(place.home.with_name(f"{self.stage}.lock"), what, wait=place.beside)
            try:
                self.done = place.is_entered()
            except BaseException:
                self._lock.release()
                raise
        wait()
        if not ranks.leads():
            self.done = self._place.is_published(read=False)
        self._basis.hold()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._progress is not None:
                self._progress.close()  # type: ignore[attr-defined]  # a generator: restores the terminal
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(self._place.folder)
            if isinstance(error, NotFinite):
                raise error.named(self._row_name(error.row)) from error
            if kind is None:
                self._finish()
        finally:
            self._basis.release()
            if not self._collected:  # restored: what follows may import and load again
                gc.disable()
            if ranks.leads():
                self._lock.release()

    def _finish(self) -> None:
        """Publish the rows of all processes, by the leader, unless something that they depend on has changed."""
        wait()  # for the rows of the others
        if ranks.leads():
            self._basis.require_unchanged()
            if not self.done:
                self._place.publish(self.ingredients)
        wait()  # later stages read the output

    def expect(self, count: int, batch: int) -> list[range]:
        """Set the number of rows and the partition into parts; returns this process's unfinished parts."""
        _collect_garbage()
        if not self.done:
            self._parts.expect(count, batch)
            if ranks.leads() and (damaged := self._parts.clean()):
                self.say(f"makes {damaged} damaged part{'s' * (damaged > 1)} of an earlier run again")
            wait()
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
        """Description of a row of the current batch, for messages; outside of batches of a row of the whole table."""
        row = self._part[row] if self._part else row
        return self.describe(row) or f"row {row}"

    def track(self, items: Iterable[int], count: int, what: str) -> Iterator[int]:
        """Yield the items, with progress on stderr; the other items of ``count`` were finished by an earlier run."""
        _collect_garbage()
        left = list(items)
        if not ranks.leads():
            return iter(left)
        if 0 < len(left) < count:
            self.say(f"continues; {count - len(left)} of {count} {what}s were done before")
        label = f"{self.stage} {self.round} {what}"
        return track(left, lambda _: 1, count, count - len(left), label)

    def write(self, rows: range, **values: Any) -> None:
        """Store arrays for `rows` (first axis), in one atomic file; does nothing if the run is done.

        Names are those of the schema; one that begins with `_` is kept for `collect`, not published. Raises
        BadNumber for a NaN or infinity, StoreError for a name, type or shape that is not in the schema.
        """
        self.write_arrays(rows, values)

    def write_arrays(self, rows: range, values: Mapping[str, Any]) -> None:
        """`write` for names that are not Python identifiers, such as `up_1.0/K`."""
        if not self.done:
            if ranks.leads() and not self._has_space:
                self._place.require_space(len(rows), values)
                self._has_space = True
            self._parts.write(rows, values, self.describe)

    def collect(self, name: str) -> AnyArray:
        """One array or working column of all finished rows, also those of earlier runs."""
        wait()
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
        atomic.write_bytes(self._place.state, tensors.to_bytes(whole, meta))

    def load_state(self) -> State | None:
        """The last saved state, also of an interrupted run; None if there is none or it is damaged."""
        if not self._place.state.exists():
            return None
        try:
            return tensors.read(self._place.state)
        except StoreError:
            self.say("its saved state is damaged; starts from the beginning")
            return None

    def path(self, name: str) -> Path:
        """Path for a file of the output that is neither array nor table; its folder is made.

        Every process may write there; the leader's files are published.
        """
        path = self._out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def _out(self) -> Path:
        place = self._place
        return place.out if ranks.leads() else place.folder / f"out of rank {ranks.rank()}"

    def say(self, text: str) -> None:
        """Print one line about this run, in the leader."""
        if ranks.leads():
            with suppress(OSError):  # the reader of the output has ended; the work continues
                print(f"{self.stage} {self.round}: {text}.", flush=True)


def _collect_garbage() -> None:
    """Enable garbage collection for the loop of the stage; objects that are loaded already are excluded."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
