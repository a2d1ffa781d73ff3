"""What every back end needs that gives an engine token ids and is given token ids: prompts, knobs, forms, answers."""
