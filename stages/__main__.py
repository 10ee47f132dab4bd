"""Starts a stage with the command in ``launcher`` of params.yaml. dvc.yaml runs this.

    python -m stages train r00      # launcher.train: torchrun --standalone --nproc_per_node 8
    python -m stages train          # under DVC: the round is in $DVC_STAGE
    python -m stages all            # every stage of every round in this process, without DVC

The launcher is not in the command that DVC records, so that a change of the number of processes or devices does not
make DVC delete and repeat finished work. The round is not in the command either: DVC passes commands to a
shell, which no text of params.yaml may reach.
"""

from __future__ import annotations

import os
import runpy
import shlex
import sys
from importlib import import_module

from dfusion_core.runtime.entry import among_ranks, guarded, start_process

if __name__ == "__main__":
    start_process()  # before the slow imports

from dfusion_core.errors import LaunchError, did_you_mean  # noqa: E402
from dfusion_core.params import load_params  # noqa: E402
from dfusion_core.params.rounds import INIT, in_order  # noqa: E402
from dfusion_core.params.sections import Launcher  # noqa: E402
from dfusion_core.store.paths import ROUND_STAGES  # noqa: E402

ALL = "all"
CODE, PROMPTS = "code", "prompts"  # no launcher: they take a second
ALONE = "python"  # this interpreter, in this very process


@guarded
def main() -> None:
    """Start the stage named first on the command line, with the arguments after it."""
    stage = sys.argv[1] if len(sys.argv) > 1 else ""
    if stage == ALL:
        among_ranks(run_all)()
    elif stage in (CODE, PROMPTS):
        run(stage)
    elif stage in Launcher.model_fields:
        start(stage, sys.argv[2:] or round_under_dvc())
    else:
        stages = (*Launcher.model_fields, ALL, CODE, PROMPTS)
        print(
            f"usage: python -m stages STAGE [ROUND], where STAGE is one of {', '.join(stages)}. "
            f"{did_you_mean(stage, stages)}".rstrip(),
            file=sys.stderr,
        )
        sys.exit(2)


def round_under_dvc() -> list[str]:
    """The round in ``$DVC_STAGE`` (``train@r00``) as an argument; none for a stage without rounds."""
    _, at, round = os.environ.get("DVC_STAGE", "").rpartition("@")
    return [round] if at else []


def start(stage: str, arguments: list[str]) -> None:
    """Exec the stage. Raises ParamsError, or LaunchError if the launcher's program cannot be started."""
    launcher = getattr(load_params("launcher").launcher, stage)
    if launcher == ALONE:
        sys.argv[1:] = arguments
        runpy.run_module(f"stages.{stage}", run_name="__main__", alter_sys=True)
        return
    program, *options = [os.path.expandvars(word) for word in shlex.split(launcher)]
    try:
        os.execvp(program, [program, *options, "-m", f"stages.{stage}", *arguments])  # no shell reads it
    except OSError as error:
        raise LaunchError(
            f"launcher.{stage}: '{program}' cannot be started: {error.strerror}.",
            "Correct it in params.yaml; variables are set as in 'env CUDA_VISIBLE_DEVICES=0 python'.",
        ) from None


def run_all() -> None:
    """Every stage of every round, one after the other in this process. Finished stages are not repeated."""
    run("init")
    run("evaluate", INIT)
    for round in in_order(load_params("rounds")):
        for stage in ROUND_STAGES:
            run(stage, round)
    run("summary")


def run(stage: str, *arguments: str) -> None:
    """One stage in this process."""
    getattr(import_module(f"stages.{stage}"), stage)(*arguments)


if __name__ == "__main__":
    main()
