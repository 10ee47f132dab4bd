"""What a run will need, before it runs: images, rows, hours, memory and disk (`dfusion plan`)."""
