"""D-Fusion: preference optimization of diffusion models with visually consistent samples."""

__version__ = "0.1.0"
