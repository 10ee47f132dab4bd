"""What fusion needs of a reference: masks (Eq. 4), keys and values."""
