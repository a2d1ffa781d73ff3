"""The loop tells tools which addresses the conversation knows, round by round."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
from typing_extensions import override

from deepserve.backends.script import Reply, ScriptedCall
from deepserve.core.messages import Json, Message, Text
from deepserve.core.request import ServerTool, Thinking
from deepserve.core.server_tool import ToolFault, ToolOutput
from deepserve.tools.runner import CallContext
from deepserve.tools.tool_loop import ToolLoop
from deepserve.tools.toolbox import Toolbox
from tests.dialects.chat.decoding import body, decode
from tests.tools.scripted_tool import Answering, ScriptedTool, found
from tests.tools.test_tool_loop import Replying

WANTED = (ServerTool(tool="web_search", name="web_search"), ServerTool(tool="web_fetch", name="web_fetch"))
FOUND = found({"query": "rain"}).hits[0].url


def call(tool: str, **arguments: str) -> ScriptedCall:
    return ScriptedCall(name=tool, arguments=msgspec.json.encode(arguments).decode())


class Asking(ScriptedTool):
    """Notes which addresses are known at the moment of each call."""

    def __init__(self, *urls: str, answering: Answering) -> None:
        super().__init__(answering)
        self._urls = urls
        self.known: list[list[bool]] = []

    @override
    async def run(self, arguments: Mapping[str, Json], wanted: ServerTool, context: CallContext) -> ToolOutput:
        assert context.was_mentioned is not None
        self.known.append([context.was_mentioned(url) for url in self._urls])
        return await super().run(arguments, wanted, context)


def test_addresses_become_known_when_a_user_or_a_search_brings_them() -> None:
    """Not when the model writes them, in its text or in a call, or when a tool's fault repeats them."""
    made_up = "https://made-up.example/?secret=1"
    urls = ("https://user.example/a", FOUND, made_up)
    request = msgspec.structs.replace(
        decode(body()).request,
        messages=(Message(role="user", parts=(Text("Read https://user.example/a"),)),),
        server_tools=WANTED,
        thinking=Thinking(enabled=False),
    )
    backend = Replying(
        Reply(text=f"I think of {made_up}", tool_calls=(call("web_search", query="rain"),)),
        Reply(tool_calls=(call("web_fetch", url=made_up),)),
        Reply(tool_calls=(call("web_fetch", url=made_up),)),
        Reply(text="done"),
    )
    search = Asking(*urls, answering=found)
    fetch = Asking(*urls, answering=lambda given: ToolFault(code="not_allowed", message=str(given["url"])))

    async def run() -> None:
        loop = ToolLoop(Toolbox({"web_search": search, "web_fetch": fetch}))
        async for _ in loop.answer(request, backend.answer):
            pass

    asyncio.run(run())
    assert search.known == [[True, False, False]]
    assert fetch.known == [[True, True, False]] * 2
