"""What the server's tools did, as answers of this service tell it.

Calls ride among `reasoning_details`, so that a later turn of the conversation shows them to the model again; the pages
that were found are `annotations` of the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from deepserve.core.messages import Citation, Part, ServerToolCall, ServerToolResult, Text
from deepserve.core.server_tool import (
    CodeOutput,
    FetchedPage,
    SearchResults,
    ToolFault,
    ToolOutput,
)
from deepserve.dialects.chat.openrouter.wire import WireAnnotation, WireServerCall, WireUrlCitation
from deepserve.dialects.chat.server_call import PREFIX, PREFIXED
from deepserve.dialects.joined_text import RoundGap
from deepserve.dialects.openrouter.usage import WireServerToolUse


def encode_call(call: ServerToolCall, result: ServerToolResult) -> WireServerCall:
    """The result as JSON that says of what kind it is; contents of files are left out."""
    output = result.output or ToolFault(code="unavailable", message="")
    if isinstance(output, CodeOutput):
        files = tuple(msgspec.structs.replace(file, content=b"") for file in output.files)
        output = msgspec.structs.replace(output, files=files)
    return WireServerCall(
        tool_name=f"{PREFIX}{call.tool}" if call.tool in PREFIXED else call.name,
        arguments=call.arguments,
        result=msgspec.json.encode(output).decode(),
        tool_call_id=call.id,
    )


class Annotator:
    """Collects what is to be cited while an answer is told: `say`, `cite` and `find` in order, then `annotations`."""

    def __init__(self) -> None:
        self._gap = RoundGap()
        self._length = self._begun_at = 0
        self._spelled: list[Citation] = []
        self._found: dict[str, Citation] = {}
        self._num_asked = self._num_answered = 0

    def begin_text(self) -> None:
        """A text begins, in which places are counted."""
        self._begun_at = self._length

    def say(self, text: str) -> str:
        """The text as it is told."""
        gap = self._gap.before(text)
        self._begun_at += len(gap)
        self._length += len(gap) + len(text)
        return gap + text

    def cite(self, citations: Iterable[Citation]) -> None:
        for one in citations:
            start, end = (one.start or 0) + self._begun_at, (one.end or 0) + self._begun_at
            self._spelled.append(msgspec.structs.replace(one, start=start, end=end))

    def ask(self) -> None:
        self._num_asked += 1

    def find(self, output: ToolOutput | None) -> None:
        self._gap.pause()
        self._num_answered += output is not None and not isinstance(output, ToolFault)
        match output:
            case SearchResults(hits=hits):
                pages = [(hit.url, hit.title, hit.snippet) for hit in hits]
            case FetchedPage():
                pages = [(output.url, output.title, output.text[:_CITED_CHARACTERS])]
            case _:
                pages = []
        for url, title, text in pages:
            self._found.setdefault(url, Citation(url=url, title=title, cited_text=text))

    def annotations(self) -> list[WireAnnotation]:
        """Pages that the text names, with the place; then the others that were found, for the whole text."""
        named = {one.url for one in self._spelled}
        others = [one for url, one in self._found.items() if url not in named]
        return [
            *(_annotation(one, one.start or 0, one.end or 0) for one in self._spelled),
            *(_annotation(one, 0, self._length) for one in others),
        ]

    def use(self, num_searches: int) -> WireServerToolUse | None:
        """None where no tool of the server's was called."""
        if not self._num_asked:
            return None
        return WireServerToolUse(
            tool_calls_requested=self._num_asked,
            tool_calls_executed=self._num_answered,
            web_search_requests=num_searches,
        )


_CITED_CHARACTERS = 1_000


def _annotation(citation: Citation, start: int, end: int) -> WireAnnotation:
    return WireAnnotation(
        WireUrlCitation(
            url=citation.url, title=citation.title, content=citation.cited_text, start_index=start, end_index=end
        )
    )


def annotate(parts: Sequence[Part]) -> tuple[str, Annotator]:
    """The text of a whole answer, and what is cited in it."""
    annotator, text = Annotator(), ""
    for part in parts:
        match part:
            case Text():
                annotator.begin_text()
                text += annotator.say(part.text)
                annotator.cite(part.citations)
            case ServerToolCall():
                annotator.ask()
            case ServerToolResult():
                annotator.find(part.output)
    return text, annotator
