"""The second image of each pair: fused targets (Eq. 5), inverted trajectories."""
