"""How good the shipped models are: a fixed set of questions, asked of the product itself, answers judged exactly.

    questions.py -> examinee.py (prompt encoder, scheduler, native engine, answer decoder) -> judgement.py -> results.py

The set is the same for both models, drawn from the held-out side of every pool of values; its hash stands in
`fingerprint.toml` since before the training. What is asked for stands in `targets.toml`.
"""
