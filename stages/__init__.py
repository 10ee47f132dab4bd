"""One module per DVC stage: read what came before, call the core, write what comes next."""
