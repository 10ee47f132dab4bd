"""One round of training: losses (Eq. 6, 8, 9), rows, optimizer."""
