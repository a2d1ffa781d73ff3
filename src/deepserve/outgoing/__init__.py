"""The HTTP client, and which addresses it may reach on behalf of users."""
