"""Messages to what the model reads, and what the model writes to events: the V4 prompt format and its tokenizer.

    encoder    request -> segments (special tokens apart from text) and where the answer starts
    tokenizer  segments -> token ids, token ids -> text as it arrives
    decoder    pieces of the answer -> events
    profile    the fixed texts of each release

Knows nothing of wire formats, models or engines.
"""
