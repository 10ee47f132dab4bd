"""Training of the built-in model: one module per step of the pipeline in this folder's dvc.yaml."""
