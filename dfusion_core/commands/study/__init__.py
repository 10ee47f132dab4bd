"""Comparing settings: a grid of experiments from a file, run by DVC, gathered into tables and figures."""
