"""Settings out of a file, the environment and the command line, each with where it came from."""
