"""Attention control: maps, masks (Eq. 4), keys and values of a reference (Eq. 5)."""
