"""One module per DVC stage: read what came before, call the core, write what comes next."""

import sys

if sys.argv[:1] == ["-m"]:  # `python -m stages.NAME` looks for NAME: what it imports takes seconds
    from dfusion_core.runtime.entry import start_process

    start_process()
