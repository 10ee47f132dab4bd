"""The labelling page: a session, a local server, and a client for programs."""

PORT = 8421  # unless another one is asked for
