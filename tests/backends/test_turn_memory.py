from __future__ import annotations

import asyncio
import sys
import zlib
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import update

from deepserve.backends.tokens.turn_memory import RememberedTurn, TurnMemory
from deepserve.core.events import PastReasoning
from deepserve.core.messages import Message, Reasoning, Text, ToolCall
from deepserve.core.request import Request, Tool
from deepserve.core.tenant import Tenant, TenantId
from deepserve.prompt.encoder import SampledTurn
from deepserve.store.database import open_database
from deepserve.store.tables import turns
from deepserve.store.turns import TurnLimits, TurnStore
from tests.backends.embedded_setup import NOON, request_of


def call(call_id: str) -> ToolCall:
    return ToolCall(id=call_id, name="f")


def turn_of(reasoning: str | None, *calls: ToolCall, text: str = "") -> RememberedTurn:
    sampled = SampledTurn(is_thinking=reasoning is not None, ids=(1, 2, 3), calls=calls, text=text) if calls else None
    return RememberedTurn(reasoning=reasoning, sampled=sampled)


def after(request: Request, *parts: Text | Reasoning | ToolCall) -> Request:
    messages = (*request.messages, Message(role="assistant", parts=parts))
    return request_of(*messages, "and?", tenant=request.tenant, user_id=request.user_id)


def test_a_trace_is_found_by_the_id_of_any_call_whatever_came_before() -> None:
    memory = TurnMemory()
    asked = request_of("q")
    memory.remember(asked, turn_of("because", call("x"), call("y")), call_ids=["x", "y"], text="")
    restored, counts, replays = memory.restore(after(request_of("another"), call("y")))
    assert restored.messages[1].reasoning == "because"
    assert (counts.sent, counts.restored, counts.missing) == (0, 1, 0)
    assert set(replays) == {"y"}


def test_a_trace_of_a_text_is_found_only_behind_the_same_conversation() -> None:
    memory = TurnMemory()
    memory.remember(request_of("q"), turn_of("because"), call_ids=[], text="Yes.")
    assert memory.restore(after(request_of("q"), Text("Yes.\n")))[1].restored == 1
    assert memory.restore(after(request_of("q2"), Text("Yes.")))[1].restored == 0
    assert memory.restore(after(request_of("q"), Text("No.")))[1].restored == 0


def test_dropping_an_earlier_trace_does_not_hide_a_later_one() -> None:
    memory = TurnMemory()
    full = request_of("q", Message(role="assistant", parts=(Reasoning(text="a"), Text("A"))), "r")
    memory.remember(full, turn_of("b"), call_ids=[], text="B")
    bare = request_of("q", Message(role="assistant", parts=(Text("A"),)), "r")
    assert memory.restore(after(bare, Text("B")))[1].restored == 1


@pytest.mark.parametrize("sent", ["", "mine"])
def test_a_trace_that_is_sent_is_left_alone_even_when_it_is_empty(sent: str) -> None:
    memory = TurnMemory()
    memory.remember(request_of("q"), turn_of("because", call("x")), call_ids=["x"], text="")
    restored, counts, replays = memory.restore(after(request_of("q"), Reasoning(text=sent), call("x")))
    assert restored.messages[1].reasoning == sent
    assert (counts.sent, counts.restored) == (1, 0)
    assert not replays


def test_a_trace_that_the_client_only_named_is_repeated_and_counts_as_restored() -> None:
    memory = TurnMemory()
    memory.remember(request_of("q"), turn_of("because", call("x")), call_ids=["x"], text="")
    named = Reasoning(text="because", is_recalled=True)
    restored, counts, replays = memory.restore(after(request_of("q"), named, call("x")))
    assert restored.messages[1].parts == (named, call("x"))
    assert counts == PastReasoning(restored=1)
    assert set(replays) == {"x"}


def test_a_trace_that_is_sent_unchanged_is_replayed() -> None:
    memory = TurnMemory()
    memory.remember(request_of("q"), turn_of("because", call("x")), call_ids=["x"], text="")
    _, _, replays = memory.restore(after(request_of("q"), Reasoning(text="because\n"), call("x")))
    assert set(replays) == {"x"}


def test_tenants_are_strangers() -> None:
    memory = TurnMemory()
    memory.remember(request_of("q"), turn_of("because", call("x")), call_ids=["x"], text="")
    other = request_of("q", tenant=Tenant(id=TenantId("other")))
    restored, counts, replays = memory.restore(after(other, call("x")))
    assert (counts.restored, counts.missing, replays) == (0, 1, {})
    assert restored.messages == after(other, call("x")).messages


def test_end_users_of_a_tenant_are_strangers() -> None:
    """A second user who repeated the conversation of a first had the first one's thinking put into the prompt."""
    memory = TurnMemory()
    ann, bob, nobody = (request_of("q", user_id=user_id) for user_id in ("ann", "bob", None))
    memory.remember(ann, turn_of("because"), call_ids=[], text="Yes.")
    memory.remember(ann, turn_of("because", call("x")), call_ids=["x"], text="")
    for request, restored in ((ann, 1), (bob, 0), (nobody, 0)):
        assert memory.restore(after(request, Text("Yes.")))[1].restored == restored
        assert memory.restore(after(request, call("x")))[1].restored == restored


def test_what_a_turn_takes_is_not_counted_short() -> None:
    sampled = SampledTurn(is_thinking=True, ids=tuple(range(1000, 2000)), calls=(), text="漢字" * 500)
    turn = RememberedTurn(reasoning="é" * 1000, sampled=sampled)
    real = sum(map(sys.getsizeof, (sampled.ids, *sampled.ids, sampled.text, turn.reasoning)))
    assert real <= turn.size_bytes <= 1.2 * real


def test_forged_ids_restore_nothing() -> None:
    memory = TurnMemory()
    memory.remember(request_of("q"), turn_of("because"), call_ids=[], text="Yes.")
    ((_, key),) = memory._shelves[request_of("q").tenant.id].turns
    assert isinstance(key, bytes)
    for forged in ("", "x", "turn", key.hex(), key.decode("latin-1"), str(key)):
        assert memory.restore(after(request_of("p"), call(forged)))[1].restored == 0


def test_a_tenant_cannot_keep_more_than_its_share() -> None:
    memory = TurnMemory(tenant_bytes=20_000)
    other = request_of("q", tenant=Tenant(id=TenantId("other")))
    memory.remember(other, turn_of("kept", call("z")), call_ids=["z"], text="")
    for number in range(100):
        memory.remember(
            request_of("q"), turn_of("r" * 1000, call(f"c{number}")), call_ids=[f"c{number}"], text=str(number)
        )
    restored = [memory.restore(after(request_of("p"), call(f"c{n}")))[1].restored for n in range(100)]
    assert restored == [0] * (100 - sum(restored)) + [1] * sum(restored)
    assert 4 <= sum(restored) <= 8
    assert memory.restore(after(other, call("z")))[1].restored == 1


def test_tenants_that_were_not_heard_of_for_long_are_forgotten() -> None:
    memory = TurnMemory(max_tenants=3)
    requests = [request_of("q", tenant=Tenant(id=TenantId(f"t{number}"))) for number in range(5)]
    for request in requests:
        memory.remember(request, turn_of("because", call("x")), call_ids=["x"], text="")
    found = [memory.restore(after(request, call("x")))[1].restored for request in requests]
    assert found == [0, 0, 1, 1, 1]


def kept_in(folder: Path, vocabulary: str = "v") -> TurnMemory:
    limits = TurnLimits(size_bytes=1 << 20, age_s=60)
    store = TurnStore(open_database(folder), limits=limits, now=lambda: NOON)
    return TurnMemory(store=store, vocabulary=vocabulary)


def with_tools(request: Request) -> Request:
    return msgspec.structs.replace(request, tools=(Tool(name="f"),))


def recalled(memory: TurnMemory, request: Request) -> tuple[Request, PastReasoning, dict[str, SampledTurn]]:
    asyncio.run(memory.recall(request))
    return memory.restore(request)


def test_turns_with_tools_are_recalled_after_a_restart_by_call_and_by_conversation(tmp_path: Path) -> None:
    memory = kept_in(tmp_path)
    asked = with_tools(request_of("q"))
    turn = turn_of("because", call("x"), call("y"))
    memory.remember(asked, turn, call_ids=["x", "y"], text="")
    memory.remember(asked, turn_of("so"), call_ids=[], text="Yes.")
    memory.close()
    memory = kept_in(tmp_path)
    restored, counts, replays = recalled(memory, with_tools(after(request_of("another"), call("y"))))
    assert restored.messages[1].reasoning == "because"
    assert (counts.restored, counts.missing) == (1, 0)
    assert replays == {"y": turn.sampled}
    assert recalled(memory, with_tools(after(request_of("q"), Text("Yes."))))[0].messages[1].reasoning == "so"
    assert memory.num_recalled == 2
    memory.close()


def test_without_tools_nothing_is_kept_or_recalled(tmp_path: Path) -> None:
    memory = kept_in(tmp_path)
    memory.remember(request_of("q"), turn_of("because"), call_ids=[], text="Yes.")
    memory.remember(with_tools(request_of("r")), turn_of("because"), call_ids=[], text="Yes.")
    memory.close()
    memory = kept_in(tmp_path)
    assert recalled(memory, with_tools(after(request_of("q"), Text("Yes."))))[1].restored == 0
    assert recalled(memory, after(request_of("r"), Text("Yes.")))[1].restored == 0
    memory.close()


def test_kept_turns_are_of_one_tenant_and_one_of_its_users(tmp_path: Path) -> None:
    memory = kept_in(tmp_path)
    asked = with_tools(request_of("q", user_id="u"))
    memory.remember(asked, turn_of("because", call("x")), call_ids=["x"], text="")
    memory.close()
    memory = kept_in(tmp_path)
    for other in (request_of("q"), request_of("q", user_id="u", tenant=Tenant(id=TenantId("other")))):
        assert recalled(memory, with_tools(after(other, call("x"))))[1].restored == 0
    assert recalled(memory, with_tools(after(request_of("q", user_id="u"), call("x"))))[1].restored == 1
    memory.close()


def test_under_another_vocabulary_only_the_trace_is_recalled(tmp_path: Path) -> None:
    memory = kept_in(tmp_path)
    memory.remember(with_tools(request_of("q")), turn_of("because", call("x")), call_ids=["x"], text="")
    memory.close()
    memory = kept_in(tmp_path, vocabulary="w")
    _, counts, replays = recalled(memory, with_tools(after(request_of("q"), call("x"))))
    assert (counts.restored, replays) == (1, {})
    memory.close()


def test_a_kept_turn_of_another_release_is_no_turn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memory = kept_in(tmp_path)
    memory.remember(with_tools(request_of("q")), turn_of("because", call("x")), call_ids=["x"], text="")
    memory.close()
    with open_database(tmp_path).begin() as connection:
        connection.execute(update(turns).values(turn=zlib.compress(b"something else")))
    memory = kept_in(tmp_path)
    assert recalled(memory, with_tools(after(request_of("q"), call("x"))))[1].missing == 1
    assert "another release" in caplog.text
    memory.close()
