"""The tree of errors is whole: drawn, coded, and without twins."""

from deepserve.core import errors
from deepserve.core.errors import ContextOverflow, DeepserveError, error_classes


def test_the_drawing_shows_every_class_once() -> None:
    drawn = [word for line in (errors.__doc__ or "").splitlines() for word in line.split() if word[0].isupper()]
    for cls in error_classes():
        assert drawn.count(cls.__name__) == 1, cls


def test_every_class_has_a_code_of_its_own() -> None:
    codes = [cls.code for cls in error_classes()]
    assert len(set(codes)) == len(codes)


def test_an_overflow_counts_prompt_and_explicit_output() -> None:
    error = ContextOverflow(limit_tokens=100, prompt_tokens=90, requested_tokens=20)
    assert error.message.startswith(
        "This model's maximum context length is 100 tokens. However, you requested 110 tokens "
        "(90 in the messages, 20 in the completion)."
    )


def test_the_root_is_an_exception_with_message_and_field() -> None:
    error = DeepserveError("what", field="where")
    assert (str(error), error.message, error.field) == ("what", "what", "where")
