"""Sealed traces: what comes back, and for whom."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve.core.tenant import TenantId
from deepserve.store.sealing import Sealer, open_sealer

ALICE, BOB = TenantId("alice"), TenantId("bob")
SEALER = Sealer(bytes(range(32)))


@given(st.text(), st.text(min_size=1))
def test_what_is_sealed_for_a_tenant_is_opened_for_it(text: str, tenant: str) -> None:
    sealed = SEALER.seal(TenantId(tenant), text)
    assert SEALER.unseal(TenantId(tenant), sealed) == text


def test_another_tenant_and_another_server_open_nothing() -> None:
    sealed = SEALER.seal(ALICE, "because")
    assert SEALER.unseal(BOB, sealed) is None
    assert Sealer(bytes(32)).unseal(ALICE, sealed) is None


def test_any_flipped_bit_and_any_cut_makes_it_no_seal() -> None:
    data = base64.b64decode(SEALER.seal(ALICE, "because"))
    for bit in range(8 * len(data)):
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << bit % 8
        assert SEALER.unseal(ALICE, base64.b64encode(altered).decode()) is None
    for length in range(len(data)):
        assert SEALER.unseal(ALICE, base64.b64encode(data[:length]).decode()) is None
    assert SEALER.unseal(ALICE, base64.b64encode(data + b"\0").decode()) is None


@given(st.text() | st.binary().map(lambda data: base64.b64encode(data).decode()))
def test_whatever_a_client_makes_up_is_no_seal_and_no_error(made_up: str) -> None:
    assert SEALER.unseal(ALICE, made_up) is None


def test_a_seal_shows_nothing_of_the_text_and_is_the_same_each_time() -> None:
    text = "the secret of the trace " * 40
    sealed = SEALER.seal(ALICE, text)
    assert sealed == SEALER.seal(ALICE, text)
    assert b"secret" not in base64.b64decode(sealed)
    assert len(sealed) < len(text) / 2
    assert SEALER.seal(BOB, text) != sealed


def test_seals_of_two_texts_do_not_share_a_key_stream() -> None:
    one, two = (base64.b64decode(SEALER.seal(ALICE, letter * 3))[33:] for letter in "ab")
    assert one[:2] != two[:2]  # the compressed texts begin with the same two bytes


def test_lone_surrogates_become_question_marks() -> None:
    assert SEALER.unseal(ALICE, SEALER.seal(ALICE, "a\ud800b")) == "a?b"


def test_seals_outlive_the_process_only_with_a_state_directory(tmp_path: Path) -> None:
    sealed = open_sealer(tmp_path).seal(ALICE, "because")
    assert open_sealer(tmp_path).unseal(ALICE, sealed) == "because"
    assert (tmp_path / "sealing.key").stat().st_size == 32
    passing = open_sealer(None)
    assert passing.unseal(ALICE, passing.seal(ALICE, "because")) == "because"
    assert open_sealer(None).unseal(ALICE, passing.seal(ALICE, "because")) is None


def test_a_state_directory_that_cannot_be_used_is_said_and_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    sealer = open_sealer(tmp_path / "file")
    assert sealer.unseal(ALICE, sealer.seal(ALICE, "because")) == "because"
    assert "will not survive" in caplog.text


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Sealer(b"short")
