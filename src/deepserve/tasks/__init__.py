"""Answers that come later: accepted durably, carried out once, kept for a while, announced by webhooks."""
