"""Which images are made, and which become a pair (Algorithm 1)."""
