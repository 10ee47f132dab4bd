"""Which image of a pair is trained on: Eq. 7, the training table, figures of pairs."""
