"""Measurements: slow, not part of the tests. `python -m bench` runs them all; each module also runs alone."""
