"""Everything that a stage's result depends on: read when it begins, and again before it publishes.

DVC records parameters and inputs as they are after a stage has run. If params.yaml were edited meanwhile, dvc.lock
would record the new values for a result of the old ones, and DVC would restore it for them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DFusionError, StoreError, one_line
from ..runtime.collective import leader_first
from . import code, derived, dvc_lock, scratch
from .agreement import require_agreement
from .hints import dvc_stage
from .inputs import Input, hash_inputs, published
from .provenance import changes
from .reading import BEGUN_WITH

if TYPE_CHECKING:
    from ..params import Params

_BEGUN: dict[tuple[Any, ...], "Basis"] = {}  # by this command of DVC: `extract` has two outputs


class Basis:
    """Parameters, inputs and code of one stage, as they were when it began: `ingredients`, as plain JSON.

    Raises MissingStage if an input is not there; StoreError if it is damaged or of another run.
    """

    def __init__(
        self, stage: str, round: str, params: "Params | Mapping[str, Any] | None", inputs: Mapping[str, Input]
    ) -> None:
        self.stage, self.round, self._params, self._inputs = stage, round, params, inputs
        self._entry = _entry(params, round)
        with leader_first():
            self.ingredients = self._read(_values(params))
        outputs, digests = published(inputs), self.ingredients["inputs"]
        require_agreement(stage, round, self.ingredients["params"], digests, outputs)
        self._outputs = {folder.absolute(): digests[name] for name, folder in outputs.items()}
        if scratch.under_dvc():
            code.require_noted(stage)
            derived.require_noted(stage, inputs, digests)
            dvc_lock.require_agreement(stage, outputs.values())
            _BEGUN[(*_command(), stage, round)] = self

    def hold(self) -> None:
        """Make `read_stage` refuse an output that has replaced an input."""
        BEGUN_WITH.update(self._outputs)

    def release(self) -> None:
        """End `hold`."""
        for folder in self._outputs:
            BEGUN_WITH.pop(folder, None)

    def require_unchanged(self) -> None:
        """Raise StoreError naming what has changed since, for all stages that this command of DVC has begun."""
        code.read_again()
        for basis in [one for key, one in _BEGUN.items() if key[:2] == _command() and one is not self] + [self]:
            if changed := basis._changes():
                raise StoreError(
                    f"{self.stage}: {self.round} is not published, because while it ran {'; '.join(changed)}.",
                    f"What is finished is kept for the values that it was made with. Run the same command again: "
                    f"'dvc repro {dvc_stage(self.round, self.stage)}'.",
                )

    def _changes(self) -> list[str]:
        """The changes, in words."""
        try:
            params = _again(self._params)
            if (entry := _entry(params, self.round)) != self._entry:
                return [f"rounds.{self.round} changed from {self._entry} to {entry}"]
            return changes(self.ingredients, self._read(_values(params)))
        except DFusionError as error:
            return [f"this happened: {error.message.rstrip('.')}"]
        except OSError as error:
            return [f"an input went away: {one_line(error)}"]

    def _read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "round": self.round,
            "params": dict(values),
            "inputs": hash_inputs(self.stage, self._inputs),
            "code": code.hash_code(self.stage),
        }


def _command() -> tuple[Path, str | None]:
    """The running command: the project's folder, and the stage in dvc.yaml."""
    return Path.cwd(), os.environ.get("DVC_STAGE")


def _values(params: "Params | Mapping[str, Any] | None") -> Mapping[str, Any]:
    """The sections in the fingerprint, as plain JSON values."""
    return params if isinstance(params, Mapping) else params.for_fingerprint() if params is not None else {}


def _entry(params: "Params | Mapping[str, Any] | None", round: str) -> Any:
    """The round's entry of params.yaml, if the stage requested the rounds."""
    rounds = {} if params is None or isinstance(params, Mapping) else params.as_dict().get("rounds", {})
    return rounds.get(round)


def _again(params: "Params | Mapping[str, Any] | None") -> "Params | Mapping[str, Any] | None":
    """The same sections of the present params.yaml. Raises ParamsError."""
    if params is None or isinstance(params, Mapping):
        return params
    from ..params import load_params

    return load_params(*params.as_dict())
