"""Prompt files, their items, and the paper's prompts as data."""
