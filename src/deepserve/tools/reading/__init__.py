"""Reading: documents of several kinds as text."""
