"""What is kept for clients whose connection broke, and for how long."""

from __future__ import annotations

from deepserve.config import SocketLimits
from deepserve.core.tenant import TenantId
from deepserve.server.runware.sessions import Session, Sessions

ONE, TWO = TenantId("one"), TenantId("two")


class Wire:
    """A connection."""

    is_dropped = False

    def drop(self) -> None:
        self.is_dropped = True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def waiting(session: Session) -> list[bytes]:
    frames = []
    while (frame := session.first()) is not None:
        frames.append(frame)
        session.delivered(frame)
    return frames


def test_frames_wait_for_the_client_in_order_and_are_told_once() -> None:
    sessions, wire = Sessions(SocketLimits(), Clock()), Wire()
    session = sessions.open("s", ONE, wire)
    session.post(b"1")
    session.post(b"2")
    sessions.leave(session, wire)
    session.post(b"3")
    assert sessions.resume("s", ONE, Wire()) is session
    session.post_first(b"0")
    assert waiting(session) == [b"0", b"1", b"2", b"3"]


def test_nobody_waits_longer_than_is_said() -> None:
    clock, wire = Clock(), Wire()
    sessions = Sessions(SocketLimits(resume_s=120), clock)
    for name in ("early", "late"):
        session = sessions.open(name, ONE, wire)
        session.post(b"x")
        sessions.leave(session, wire)
        clock.now += 60
    clock.now += 1
    assert sessions.resume("early", ONE, wire) is None
    assert sessions.resume("late", ONE, wire) is not None


def test_a_session_without_anything_to_tell_is_not_kept() -> None:
    """Else opening and leaving connections would push out those that are waited for."""
    sessions, wire = Sessions(SocketLimits(sessions=2), Clock()), Wire()
    kept = sessions.open("kept", ONE, wire)
    kept.num_tasks = 1
    sessions.leave(kept, wire)
    for number in range(5):
        sessions.leave(sessions.open(str(number), TWO, wire), wire)
    assert sessions.resume("kept", ONE, wire) is kept


def test_the_oldest_of_too_many_sessions_is_given_up() -> None:
    sessions, wire = Sessions(SocketLimits(sessions=2), Clock()), Wire()
    for name in ("a", "b", "c"):
        session = sessions.open(name, ONE, wire)
        session.post(b"x")
        sessions.leave(session, wire)
    assert sessions.resume("a", ONE, wire) is None
    assert sessions.resume("b", ONE, wire) is not None


def test_another_tenant_does_not_get_a_session() -> None:
    sessions, wire = Sessions(SocketLimits(), Clock()), Wire()
    sessions.open("s", ONE, wire)
    assert sessions.resume("s", TWO, Wire()) is None
    assert not wire.is_dropped


def test_a_session_is_on_one_connection_only() -> None:
    sessions, old, new = Sessions(SocketLimits(), Clock()), Wire(), Wire()
    session = sessions.open("s", ONE, old)
    assert sessions.resume("s", ONE, new) is session
    assert (old.is_dropped, new.is_dropped) == (True, False)
    sessions.leave(session, old)
    assert session.connection is new


def test_without_a_connection_the_oldest_frames_go_first_when_there_are_too_many() -> None:
    sessions, wire = Sessions(SocketLimits(resume_bytes=10), Clock()), Wire()
    session = sessions.open("s", ONE, wire)
    session.num_tasks = 1
    sessions.leave(session, wire)
    for frame in (b"11111", b"22222", b"33333", b"4" * 20):
        session.post(frame)
    assert waiting(session) == [b"4" * 20]


def test_a_client_that_asks_but_does_not_read_is_dropped() -> None:
    sessions, wire = Sessions(SocketLimits(resume_bytes=10), Clock()), Wire()
    session = sessions.open("s", ONE, wire)
    for _ in range(8):
        session.post(b"55555")
    assert not wire.is_dropped
    session.post(b"5")
    assert wire.is_dropped
