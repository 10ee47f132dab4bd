"""The page on which people judge pictures: a session, a local server, and a client for those who are no people."""

PORT = 8421  # unless another one is asked for
