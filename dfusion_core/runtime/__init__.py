"""The runtime of a stage: its start, its errors, its processes, its progress."""
