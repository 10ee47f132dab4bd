"""Trains the built-in model from seeds: one module per step of the pipeline in this folder's dvc.yaml."""
