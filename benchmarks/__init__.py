"""How fast this is, against rivals written from published descriptions: `python -m benchmarks` (docs/benchmarks.md)."""
