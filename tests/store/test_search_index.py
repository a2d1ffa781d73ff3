"""The full-text index, which strangers may ask anything."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deepserve.core.errors import ConfigurationError
from deepserve.store.search_index import Document, Passage, SearchIndex


def document(path: str, *texts: str, title: str = "", modified_ns: int = 1) -> Document:
    return Document(
        folder="f",
        path=path,
        title=title or path,
        media_type="text/plain",
        size_bytes=1,
        modified_ns=modified_ns,
        passages=tuple(Passage(text=text) for text in texts),
    )


def found(index: SearchIndex, query: str, **options: tuple[int, int]) -> list[str]:
    return [each.path for each in index.search(query, limit=10, **options)]


@pytest.fixture
def index() -> SearchIndex:
    made = SearchIndex()
    made.keep_folders({"f": "/f"})
    made.put(
        [
            document("limits", "A body has at most 32 MiB.", title="Limits"),
            document("cats", "Cats sleep. The body of a cat is soft.", title="Über Katzen"),
            document("chinese", "深度学习很有趣"),
            document("japanese", "東京タワーは高い"),
        ]
    )
    return made


def test_documents_with_all_words_come_before_those_with_some(index: SearchIndex) -> None:
    assert found(index, "body MiB") == ["limits", "cats"]
    assert found(index, "soft cat body") == ["cats", "limits"]


def test_words_are_found_by_stem_and_without_accents(index: SearchIndex) -> None:
    assert found(index, "sleeping") == ["cats"]
    assert found(index, "uber") == ["cats"]
    assert found(index, "LIMIT") == ["limits"]


def test_languages_without_blanks_are_searched_too(index: SearchIndex) -> None:
    assert found(index, "学习") == ["chinese"]
    assert found(index, "深度学习怎么样") == ["chinese"]
    assert found(index, "東京タワー") == ["japanese"]
    assert found(index, "京度") == []


def test_quotes_mean_a_phrase_and_minus_means_without(index: SearchIndex) -> None:
    assert found(index, '"a cat"') == ["cats"]
    assert found(index, '"cat a"') == []
    assert found(index, "body -cats") == ["limits"]
    assert found(index, 'body -"a cat"') == ["limits"]
    assert found(index, "-body") == []


@pytest.mark.parametrize(
    "query",
    [
        *("", " ", '"', '""', "'", "*", "-", "--", "(", ")", "()", "{", "^", ":", "+", "\\", "\0", "%", "_", ";--"),
        *("body*", "NEAR(a b)", "NEAR(", "AND", "OR", "NOT", "a AND", "title:", "{title}: x", "-{a b}: c", "^body"),
        *("body' OR 1=1 --", 'body" OR "x', '"body', 'body"', "title : body", "passage_words", "rank", "\ud800"),
        *("\u202e", "🐈", "🐈‍⬛ body", "e\u0301", "ﬁ", "\x1b[31m", "<script>alert(1)</script>", "x" * 100_000),
        *("-" * 10_000, '"' * 10_001, "body " * 5_000, "深" * 5_000, '-"' * 3_000, " ".join(map(str, range(3_000)))),
    ],
)
def test_nothing_that_is_typed_is_an_operator_or_an_error(index: SearchIndex, query: str) -> None:
    assert isinstance(found(index, query), list)


def test_a_changed_document_is_found_by_its_new_words_only(index: SearchIndex) -> None:
    index.put([document("limits", "Nothing is limited.", title="Freedom", modified_ns=2)])
    assert found(index, "MiB") == []
    assert found(index, "freedom") == ["limits"]
    assert index.versions("f")["limits"] == (1, 2)
    assert index.counts() == (4, 4)


def test_removed_documents_and_folders_are_forgotten(index: SearchIndex) -> None:
    index.remove("f", ["limits", "never there"])
    assert found(index, "MiB") == []
    index.keep_folders({"f": "/f"})
    assert found(index, "cats") == ["cats"]
    index.keep_folders({"other": "/other"})
    assert index.counts() == (0, 0)
    assert found(index, "cats") == []


def test_a_folder_that_lies_in_another_place_is_another_one(index: SearchIndex) -> None:
    """Files of the same name, size and time were taken for the ones of the folder that had had the name before."""
    index.keep_folders({"f": "/f"})
    assert found(index, "cats") == ["cats"]
    index.keep_folders({"f": "/other"})
    assert index.versions("f") == {}


def test_documents_can_be_asked_for_by_time(index: SearchIndex) -> None:
    index.put([document("new", "a body", modified_ns=100)])
    assert found(index, "body", modified_ns=(50, 200)) == ["new"]


def test_a_document_comes_back_in_order(index: SearchIndex) -> None:
    index.put([document("long", *(f"part {number}" for number in range(20)))])
    got = index.document("f", "long")
    assert got is not None
    assert [passage.text for passage in got.passages] == [f"part {number}" for number in range(20)]
    assert index.document("f", "../etc/passwd") is None
    assert index.document("f' OR '1'='1", "long") is None


def test_the_index_survives_a_restart(tmp_path: Path) -> None:
    first = SearchIndex(tmp_path / "search.db")
    first.put([document("a", "lasting words")])
    first.close()
    second = SearchIndex(tmp_path / "search.db")
    assert found(second, "lasting") == ["a"]
    second.close()


def test_an_index_of_another_format_is_made_anew(tmp_path: Path) -> None:
    first = SearchIndex(tmp_path / "search.db")
    first.put([document("a", "words")])
    first._connection.execute("PRAGMA user_version=99")
    first._connection.commit()
    first.close()
    second = SearchIndex(tmp_path / "search.db")
    assert second.counts() == (0, 0)
    second.close()


def test_a_file_that_is_no_index_is_named(tmp_path: Path) -> None:
    (tmp_path / "search.db").write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(ConfigurationError, match=r"search\.db"):
        SearchIndex(tmp_path / "search.db")


def test_a_search_that_takes_too_long_is_ended(index: SearchIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepserve.store.search_index._SEARCH_S", 0.0)
    monkeypatch.setattr("deepserve.store.search_index._STEPS_BETWEEN_LOOKS", 1)
    with pytest.raises(TimeoutError):
        index.search("body", limit=1)
    monkeypatch.undo()
    assert found(index, "MiB") == ["limits"]


def test_several_processes_make_and_fill_one_index_at_once(tmp_path: Path) -> None:
    """Each found no tables and made them, or forgot a document that the other was just taking in."""
    path, starting = tmp_path / "search.db", threading.Barrier(4)

    def work(_: int) -> None:
        starting.wait(10)
        index = SearchIndex(path)
        index.keep_folders({"f": "/f"})
        for number in range(20):
            index.put([document(str(number), f"words of document {number}", "more words")])
        index.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    index = SearchIndex(path)
    assert index.counts() == (20, 40)
    assert found(index, '"document 7"')[0] == "7"
    index.close()
