"""The images of a round, and their pairs (Algorithm 1)."""
