"""What dvc.yaml runs: a stage, started as `launcher` in params.yaml says.

    python -m dfusion_core.launch train r00      # launcher.train: torchrun --standalone --nproc_per_node 8

The launcher is not in the command that DVC records. Going on with more processes, or on a node with fewer devices,
therefore does not make DVC delete what is finished and run it again.
"""

from __future__ import annotations

import os
import runpy
import shlex
import sys

from .runtime.entry import guarded, stop_on_signals

if __name__ == "__main__":
    stop_on_signals()  # before the imports that take their time

from .params import load_params  # noqa: E402
from .params.sections import Launcher  # noqa: E402
from .runtime.errors import LaunchError, did_you_mean  # noqa: E402

ALONE = "python"  # this interpreter, in this very process


@guarded
def main() -> None:
    """Start the stage named first on the command line, with the arguments after it."""
    if len(sys.argv) < 2 or sys.argv[1] not in Launcher.model_fields:
        print(f"usage: python -m dfusion_core.launch STAGE [ROUND], where STAGE is one of "
              f"{', '.join(Launcher.model_fields)}. {did_you_mean(' '.join(sys.argv[1:2]), Launcher.model_fields)}",
              file=sys.stderr)
        sys.exit(2)
    start(sys.argv[1], sys.argv[2:])


def start(stage: str, arguments: list[str]) -> None:
    """Become the stage. Raises ParamsError, or LaunchError if the launcher's program cannot be started."""
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
            "Correct it in params.yaml; variables are set as in 'env CUDA_VISIBLE_DEVICES=0 python'.") from None


if __name__ == "__main__":
    main()
