"""`dfusion compare`: rounds, experiments, revisions and other projects side by side, on the same seeds."""
