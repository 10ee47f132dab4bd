"""Masks (Eq. 4), keys and values of references."""
