"""Fetching: pages of the web as text."""
