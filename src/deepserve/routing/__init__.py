"""Who answers a request that leaves the choice open, and why. Knows no back end and no wire format."""
