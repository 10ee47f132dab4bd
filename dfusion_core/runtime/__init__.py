"""What every stage stands on: its start, its errors, its device, its processes, the names of its artefacts."""
