"""Which images are made, from which noise, and which become a pair."""
