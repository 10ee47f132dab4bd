"""People's answers: their file, the scores computed from them, and the choice of the next question."""
