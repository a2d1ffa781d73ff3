"""Ids of requests are random, and no two are the same."""

from __future__ import annotations

from deepserve.server.fresh_ids import FreshIds


def test_ids_are_of_version_4_and_never_the_same() -> None:
    draw, other = FreshIds(), FreshIds()
    ids = [*(draw() for _ in range(2_000)), *(other() for _ in range(2_000))]
    assert len(set(ids)) == 4_000
    assert {id_.version for id_ in ids} == {4}
    assert {id_.variant for id_ in ids} == {"specified in RFC 4122"}
