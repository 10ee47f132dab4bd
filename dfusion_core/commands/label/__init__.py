"""`dfusion label` and its import and export of answers."""
