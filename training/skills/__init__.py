"""One module for each thing the model learns; every function draws one conversation."""
