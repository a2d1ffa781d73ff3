"""Searching: services on the web, and folders on this machine."""
