"""Models as they lie on disk or the Hub, and the adapter: found, pinned, read."""
