"""What is said of an answer that another model had to give."""

from __future__ import annotations

from deepserve.core.events import Started


def answered_label(route: str | None, asked: str, started: Started) -> str | None:
    """The route, with the model that answers in the place of the one that was asked. route: None: the client chose."""
    if started.model is None:
        return route
    codes = ", ".join(dict.fromkeys(attempt.code for attempt in started.earlier if attempt.model == asked))
    why = f"{asked} did not answer" + (f" ({codes})" if codes else "")
    if route is None:
        return f"model={started.model}; rule=fallback; why={why}"
    return f"{route}; answered by {started.model}, for {why}"
