"""The page on which people judge pictures: a session, a local server, and a client for those who are no people."""
