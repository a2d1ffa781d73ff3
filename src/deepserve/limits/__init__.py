"""What keys may do, how much of it and how fast: looked at before a request is answered, and while it is."""
