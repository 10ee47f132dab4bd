"""Images of fixed seeds: their scores and their grid."""
