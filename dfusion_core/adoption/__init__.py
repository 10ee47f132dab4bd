"""Eq. 7, the training table, and figures of pairs."""
