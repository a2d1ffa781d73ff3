"""Every key of a TOML text is found where it stands, and no text upsets the reader."""

from __future__ import annotations

import contextlib
import random
import tomllib
from collections.abc import Iterator
from pathlib import Path

from deepserve.configuration.declarations import Path as Keys
from deepserve.configuration.places import Place, Places
from deepserve.configuration.reading import read_configuration
from deepserve.core.errors import ConfigurationError

_VALUES = (
    *("1", "inf", "true", "[]", "{}", "[\n]", "1979-05-27T07:32:00Z", "'x # no'", r'"a\"b]"', '"""m\n[x]\n"""'),
    *("'''l\n=1'''", '""""q"""""', "'''''q'''''", "[1, 2,\n # c\n [3, {k = 1}],]", "[ '''a\nb''' , \"]\" ]"),
    "{ a = 1, b.c = '}' , d = [ {e = 2} ] }",
)
_PIECES = (
    *("[", "]", "[[", "]]", "=", ".", ",", "{", "}", "\n", "\r\n", " ", "#", '"', "'", "'''", '"""', "\\", "\x00", "é"),
    *("a", "b.c", "server", "port", "1", "1.5", "[server]\n", "port = 1\n", "[[upstreams]]\n", "id = 'a'\n", "nan"),
    *("x = [1, [2]]\n", "y = {a = 1}\n", "[chains]\n", "[limits]\n", "tools = 1\n", 's = """\n a \\\n b""""\n'),
)


def made_text(chance: random.Random) -> str:
    """Tables, lists of tables and keys in every spelling; each name is new, but for those of lists."""
    text = ""
    for number in range(chance.randint(1, 8)):
        names = (f"k{number}", f'"q {number}"', f"'l.{number}'", f"d{number}.e", f"d{number} . 'x y' . z", f"{number}")
        name, indent = chance.choice(names), chance.choice(("", " ", "\t"))
        end = chance.choice(("", " # c", "  #\"'[{")) + chance.choice(("\n", "\r\n", "\n\n"))
        match chance.randint(0, 4):
            case 0:
                text += f"{indent}[{indent}{name}{indent}]{end}"
            case 1:
                text += f"{indent}[[{chance.choice(('arr', 'x.arr', name))}]]{end}"
            case _:
                text += f"{indent}{name}{indent}={indent}{chance.choice(_VALUES)}{end}"
    return text


def paths_of(value: object, path: Keys = ()) -> Iterator[Keys]:
    if path:
        yield path
    if isinstance(value, dict):
        for name, one in value.items():
            yield from paths_of(one, (*path, name))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from paths_of(one, (*path, number))


def test_every_key_of_a_text_is_found_where_it_stands() -> None:
    chance = random.Random(11)
    for _ in range(1500):
        text = made_text(chance)
        places = Places(text)
        known = set(paths_of(tomllib.loads(text)))
        assert set(places.of) <= known, text
        assert places.repeated == [], text
        lines = text.replace("\r\n", "\n").split("\n")
        for path in known:
            place = places.nearest(path)
            assert place is not None, text
            assert 1 <= place.column <= len(lines[place.line - 1]), text
            if path in places.of and isinstance(path[-1], str):
                assert path[-1] in lines[place.line - 1], text


def test_no_text_upsets_the_reader(tmp_path: Path) -> None:
    chance = random.Random(12)
    for _ in range(3000):
        text = "".join(chance.choice(_PIECES) for _ in range(chance.randint(0, 25)))
        with contextlib.suppress(ConfigurationError):
            read_configuration(text, tmp_path / "deepserve.toml")


def test_a_table_that_stands_nowhere_by_itself_begins_where_it_is_spoken_of() -> None:
    places = Places("[a.b]\nc.d = 1\n")
    assert places.nearest(("a",)) == Place(1, 1)
    assert places.nearest(("a", "b", "c")) == Place(2, 1)
    assert ("a",) not in places.of
