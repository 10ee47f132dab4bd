"""Paths of the micro-world's files in the installed package."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"  # a StableDiffusionPipeline folder, with clip/ and oracle/ beside
FLOW_WEIGHTS = WEIGHTS / "flow"  # a StableDiffusion3Pipeline folder
CLIP = WEIGHTS / "clip"  # open_clip's local-dir format
ORACLE = WEIGHTS / "oracle"
