"""Searching folders on this machine, without any network."""
