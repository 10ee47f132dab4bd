"""Procedurally drawn scenes that stand in for photographs in small experiments."""
