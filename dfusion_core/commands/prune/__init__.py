"""`dfusion prune`: the disk of finished rounds."""
