"""Answer a question from PDF files, which go into the prompt whole: Pro recalls more of a long context."""

import sys

from client import ask, system, user
from pypdf import PdfReader


def main() -> None:
    question, *names = sys.argv[1:]
    pages = [
        f"[{name}, page {number}]\n{page.extract_text()}"
        for name in names
        for number, page in enumerate(PdfReader(name).pages, start=1)
    ]
    # The documents come first, so that a second question about them finds them in the prefix cache.
    rules = "Answer from these pages only, and name the page. Say so if they do not tell.\n\n"
    answer = ask("auto:long-document", [system(rules + "\n\n".join(pages)), user(question)])
    print(answer.choices[0].message.content)


main()
