"""Tools that run on the server: search, fetch, Python, and what the operator adds."""
