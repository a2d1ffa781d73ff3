"""What answers cost: the price in force applied to what was consumed, told with the answer and handed to the ledger."""
