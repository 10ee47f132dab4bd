"""Stages as commands: `python -m stages.NAME ROUND`."""

import atexit
import functools
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .ranks import leads
from .streams import outlive_readers

# Telemetry is off unless the user's environment enables it: the Hub's libraries would add usage data to requests, and
# dvclive would post curves to DVC Studio if a token is set. They read this when they are imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DVC_STUDIO_OFFLINE", "true")

INTERRUPTED = "Interrupted; what is finished is kept. Run the same command again to continue."


def start_process() -> None:
    """Set up a stage's process before slow imports: signals end it, and failing prints do not."""
    outlive_readers()
    stop_on_signals()


def stop_on_signals() -> None:
    """Make Ctrl-C, SIGTERM (of a scheduler) and SIGHUP (of a closed terminal) end this process with a one-line message.

    The process ends at once, also during an import; resuming does not depend on clean-up. Exit codes are 130, 143
    and 129. A signal that is ignored (nohup) stays ignored.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, frame: object) -> None:
    with suppress(Exception):  # this may have interrupted a print, and there may be no reader
        sys.stdout.flush()
    with suppress(Exception):
        if leads():
            clear = "\r\033[K\033[?25h" if os.isatty(2) else ""  # the line of the progress bar, which hides the cursor
            os.write(2, f"{clear}{INTERRUPTED}\n".encode())
    os._exit(128 + number)


def run_stage(function: Callable[..., None]) -> None:
    """Run `function` with arguments from the command line, and turn its errors into messages and exit codes.

    0 done, 1 an error that the user can fix, 2 wrong usage, 130 interrupted, 143 terminated.
    """
    start_process()
    leave_imports_uncollected()
    import typer

    app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
    app.command()(guarded(among_ranks(function)))
    app()


def among_ranks(function: Callable[..., None]) -> Callable[..., None]:
    """`function`, called after the rendezvous of all processes of the stage; only the leader prints."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        from .collective import join

        join()
        if not leads():
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
        function(*args, **kwargs)

    return wrapper


def leave_imports_uncollected() -> None:
    """Disable garbage collection until the first row, where `StageRun` enables it, and at exit.

    Importing makes a million permanent objects; collecting repeatedly is a third of a stage's start.
    """
    gc.disable()
    atexit.register(gc.freeze)


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection meanwhile, and none of these objects later or at the end: for a short command."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """`function`, with expected errors printed to stderr and turned into exit codes."""
    from ..errors import DFusionError

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except DFusionError as error:
            _fail(error)
        except OSError as error:
            from ..errors import explain

            known = explain(error)
            if known is None:
                raise
            _fail(known)
        except KeyboardInterrupt:
            print(INTERRUPTED, file=sys.stderr)
            sys.exit(130)

    return wrapper


def _fail(error: Any) -> None:
    from ..errors import printable

    print(printable(f"error: {error}"), file=sys.stderr)
    sys.exit(error.exit_code)
