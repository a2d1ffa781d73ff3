"""How the shipped models are made: generated conversations, vocabulary, training loop, evaluation and export."""
