"""People's answers: a file of them, the scores that they add up to, and what to ask next."""
