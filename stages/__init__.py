"""One module per DVC stage: read inputs, call the core, write outputs."""

import sys


def _say_what_is_missing(kind, error, trace):  # type: ignore[no-untyped-def]
    """Report a package that is not installed in one line, without a traceback."""
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if kind is not ModuleNotFoundError or name in ("", "dfusion_core", "stages"):
        sys.__excepthook__(kind, error, trace)
        return
    print(
        f"error: the package '{name}' is not installed in {sys.executable}. Activate the environment of dfusion, or "
        f"make this one: '{sys.executable} -m pip install -e .' in the folder with pyproject.toml.",
        file=sys.stderr,
    )


if sys.argv[:1] == ["-m"]:  # `python -m stages.NAME` searches NAME, whose imports take seconds
    if sys.version_info < (3, 11):  # noqa: UP036 - who has not installed the package may come here all the same
        sys.exit(
            f"error: dfusion needs Python 3.11 or newer, and {sys.executable} is {sys.version.split()[0]}. "
            "Activate the environment of dfusion, or make one: "
            "'python3.11 -m venv .venv && .venv/bin/pip install -e .'."
        )
    sys.excepthook = _say_what_is_missing
    from dfusion_core.runtime.entry import start_process

    start_process()
