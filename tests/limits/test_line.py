"""Who waits, who is next, and who has to go when there are too many."""

from contextlib import ExitStack

import pytest

from deepserve.core.tenant import KeyId, TenantId
from deepserve.limits.line import Line, LineFull, Place

ALICE, BOB = TenantId("alice"), TenantId("bob")
KEY, OTHER = KeyId("key-1"), KeyId("key-2")


def test_those_with_one_key_stand_in_the_order_in_which_they_came() -> None:
    line = Line(10)
    with line.join(ALICE, KEY) as first, ExitStack() as others:
        second = others.enter_context(line.join(ALICE, KEY))
        with line.join(BOB, OTHER) as elsewhere:
            assert [line.is_first(place) for place in (first, second, elsewhere)] == [True, False, True]
        line.stir(KEY)
        assert first.stirred.is_set()
        assert not second.stirred.is_set()
    assert line.num_waiting == 0


def test_the_next_is_stirred_when_the_first_goes() -> None:
    line, stack = Line(10), ExitStack()
    with stack:
        first = ExitStack()
        first.enter_context(line.join(ALICE, KEY))
        second = stack.enter_context(line.join(ALICE, KEY))
        first.close()
        assert second.stirred.is_set()
        assert line.is_first(second)


def test_one_who_stood_in_the_middle_leaves_the_order_as_it_was() -> None:
    line = Line(10)
    with line.join(ALICE, KEY) as first, ExitStack() as stack:
        middle = ExitStack()
        middle.enter_context(line.join(ALICE, KEY))
        last = stack.enter_context(line.join(ALICE, KEY))
        middle.close()
        assert line.is_first(first)
        assert not last.stirred.is_set()


def test_no_place_is_left_when_all_are_taken() -> None:
    line = Line(2)
    with line.join(ALICE, KEY), line.join(ALICE, KEY), pytest.raises(LineFull), line.join(ALICE, KEY):
        pass
    assert line.num_waiting == 0


def test_nobody_can_wait_where_there_are_no_places() -> None:
    with pytest.raises(LineFull), Line(0).join(ALICE, KEY):
        pass


def test_a_tenant_that_takes_all_places_gives_its_newest_to_another_until_they_are_even() -> None:
    line = Line(4)
    with ExitStack() as stack:
        greedy = [stack.enter_context(line.join(ALICE, KEY)) for _ in range(4)]
        modest: list[Place] = [stack.enter_context(line.join(BOB, OTHER)) for _ in range(2)]
        assert [place.is_lost for place in greedy] == [False, False, True, True]
        assert all(place.stirred.is_set() for place in greedy[2:])
        with pytest.raises(LineFull), line.join(BOB, OTHER):
            pass
        assert not any(place.is_lost for place in modest)
        assert line.num_waiting == 4
    assert line.num_waiting == 0


def test_the_newest_is_lost_whatever_key_it_came_with() -> None:
    line = Line(3)
    with ExitStack() as stack:
        kept = stack.enter_context(line.join(ALICE, KEY))
        stack.enter_context(line.join(ALICE, KEY))
        lost = stack.enter_context(line.join(ALICE, OTHER))
        stack.enter_context(line.join(BOB, KeyId("key-3")))
        assert lost.is_lost
        assert not kept.is_lost
