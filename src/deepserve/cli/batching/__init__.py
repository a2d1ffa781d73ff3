"""Many questions from a file: reading them, asking them, and keeping their answers."""
