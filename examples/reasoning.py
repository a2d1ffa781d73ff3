"""Solve a problem with the deepest thinking, and say what it used: long traces are what this costs."""

import sys

from client import ask, user


def main() -> None:
    answer = ask("auto:reasoning", [user(sys.argv[1])])
    usage = answer.usage
    assert usage is not None
    assert usage.completion_tokens_details is not None
    print(answer.choices[0].message.content)
    thought = usage.completion_tokens_details.reasoning_tokens
    print(f"({thought} tokens of thinking, {usage.completion_tokens} of output)")


main()
