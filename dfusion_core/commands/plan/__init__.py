"""`dfusion plan`: images, rows, hours, memory and disk of a run, before it starts."""
