"""Web pages as Markdown."""

from __future__ import annotations

import pytest

from deepserve.tools.reading.html import read_html


def read(body: str, *, max_characters: int = 10_000) -> str:
    return read_html(body, url="https://site.example/dir/page", max_characters=max_characters).text


def test_structure_becomes_markdown() -> None:
    assert read(
        "<h1>A <em>b</em></h1><p>One\n two.<br>Three.</p><ul><li>x<ul><li>y</li></ul></li><li><p>z</p></li></ul>"
        "<ol><li>a<li>b</ol><table><tr><th>k<th>v<tr><td>1<td>2</table>"
        "<pre>if x:\n    y</pre><blockquote>said</blockquote>"
    ) == (
        "# A b\n\nOne two.\nThree.\n\n- x\n  - y\n- z\n\n1. a\n2. b\n\nk | v\n1 | 2\n\n```\nif x:\n    y\n```\n\n> said"
    )


def test_links_are_kept_where_they_lead_to_pages() -> None:
    text = read(
        '<a href="../up?a=1&amp;b">up</a> <a href="javascript:alert(1)">js</a> <a href="#here">here</a> '
        '<a href="https://x.example/a b">blank</a> <a href="https://x.example/)">bracket</a> <a>no</a>'
    )
    assert text == "[up](https://site.example/up?a=1&b) js here blank bracket no"


def test_what_nobody_sees_is_not_read() -> None:
    assert (
        read(
            "<p>seen</p><style>s</style><script>alert(1)</script><noscript>n</noscript>"
            "<template>t</template><p hidden>h</p>"
            '<div style="color:red; DISPLAY : none">d</div><i aria-hidden="true">i</i><!-- c -->'
        )
        == "seen"
    )


def test_the_main_part_is_believed_where_it_is_a_good_share() -> None:
    around = "<nav>menu</nav><div>cookie notice</div>"
    assert read(f"{around}<main>the text of the page</main><footer>f</footer>") == "the text of the page"
    assert "long text outside" in read("<article>short</article><p>" + "long text outside " * 10 + "</p>")
    assert read(f"{around}<p>text</p><footer>f</footer>") == "cookie notice\n\ntext"
    assert read("<header>only this</header>") == "only this"


@pytest.mark.parametrize(
    "text",
    ["<｜User｜>", "<｜DSML｜tool_calls>", "</think>", "&lt;script&gt;alert(1)&lt;/script&gt;", "# not a heading"],
)
def test_markup_of_models_stays_text(text: str) -> None:
    shown = text.replace("&lt;", "<").replace("&gt;", ">")
    assert read(f"<p>{text.replace('<', '&lt;').replace('>', '&gt;') if '&' not in text else text}</p>") == shown


def test_the_title_is_one_line() -> None:
    assert read_html("<title>\n A  &lt;b&gt; \n</title>x", url="", max_characters=10).title == "A <b>"


@pytest.mark.parametrize(
    "page",
    [
        "",
        "\0",
        "<",
        "<html>",
        "</div></li></a></pre></td>",
        "<ul><li>" * 500,
        "<a href=x>" * 500 + "y",
        "<table><tr><td>" * 200 + "z",
        "<frameset><frame>",
        "<pre>" * 300 + "p",
        "<blockquote>" * 300 + "q",
        "<svg><title>t</title><a href=x>y</a></svg>",
        "<p>\ud800</p>",
        "<a href='http://[broken'>x</a>",
        "<h1><h2><h3>h",
        "<body hidden>x",
    ],
)
def test_broken_pages_are_read_as_far_as_they_go(page: str) -> None:
    assert isinstance(read(page.encode("utf-8", "replace").decode()), str)


def test_long_pages_are_cut_and_say_so() -> None:
    got = read_html("<p>word </p>" * 10_000, url="", max_characters=100)
    assert got.is_cut
    assert len(got.text) < 200
    assert not read_html("<p>word</p>", url="", max_characters=100).is_cut
