"""How a stage file becomes a command: `python -m stages.NAME ROUND`."""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

from .ranks import leads


def run_stage(function: Callable[..., None]) -> None:
    """Run `function` with arguments from the command line, and turn its errors into messages and exit codes.

    0 done, 1 an error that the user can put right, 2 wrong usage, 130 interrupted.
    """
    import typer

    if not leads():  # of several processes one speaks
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
    app.command()(guarded(function))
    app()


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """`function`, with expected errors printed to stderr and turned into exit codes."""
    from .errors import DFusionError, printable

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except DFusionError as error:
            print(printable(f"error: {error}"), file=sys.stderr)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            print(
                "Interrupted; what is finished is kept. Run the same command again to continue.",
                file=sys.stderr,
            )
            sys.exit(130)

    return wrapper
