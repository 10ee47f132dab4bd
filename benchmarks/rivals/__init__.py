"""Other ways to do the same work, written from their published descriptions, as fast as those descriptions allow."""
