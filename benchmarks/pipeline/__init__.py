"""What a round costs beside its arithmetic: start-up of seven processes, DVC's graph, the store."""
