"""Which tokens may come next, so that an answer has the form it must have. Knows neither prompts nor engines."""
