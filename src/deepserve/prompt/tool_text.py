"""What a tool that ran on the server brought back, as the text the model reads.

Strangers wrote what is in it. It becomes text of the prompt like any result of a client's tool: nothing in it is ever
markup of ours. Only what every dialect can carry back decides the text, so that the next turn of a conversation
renders it anew as it was, and its cached prefix fits.
"""

from __future__ import annotations

from typing import assert_never

from deepserve.core.server_tool import (
    CodeOutput,
    FetchedPage,
    PlainOutput,
    SearchHit,
    SearchResults,
    ToolFault,
    ToolOutput,
)


def tool_output_text(output: ToolOutput) -> str:
    """The text between the marks of a tool result."""
    match output:
        case SearchResults(hits=hits):
            return "\n\n".join(_hit(number, hit) for number, hit in enumerate(hits, 1)) or "Nothing was found."
        case FetchedPage():
            return f"{_line(output.title)}\nURL: {_line(output.url)}\n\n{output.shown_text}"
        case CodeOutput():
            return _code(output)
        case PlainOutput(text=text):
            return text
        case ToolFault(message=message):
            return f"error: {message}"
        case _:
            assert_never(output)


def _hit(number: int, hit: SearchHit) -> str:
    lines = [f"{number}. {_line(hit.title)}", f"URL: {_line(hit.url)}"]
    if hit.age:
        lines.append(f"Age: {_line(hit.age)}")
    if hit.snippet:
        lines.append(hit.snippet.strip())
    return "\n".join(lines)


def _line(text: str) -> str:
    """On one line, whatever it held: a title cannot pass for the next hit."""
    return " ".join(text.split())


def _code(output: CodeOutput) -> str:
    pieces = [output.printed.rstrip("\n")] if output.printed else []
    if output.complaints:
        pieces.append(f"Standard error:\n{output.complaints.rstrip()}")
    if output.exit_code:
        pieces.append(f"Exit code: {output.exit_code}")
    if output.files:
        pieces.append("Files: " + ", ".join(_line(file.name) for file in output.files))
    return "\n".join(pieces) or "(no output)"
