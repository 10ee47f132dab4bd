"""Finding, pinning and loading of models and adapters."""
