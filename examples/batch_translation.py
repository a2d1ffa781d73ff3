"""Translate each line of the standard input, several at once; the order stays."""

import sys
from concurrent.futures import ThreadPoolExecutor

from client import ask, system, user

SIDE_BY_SIDE = 8


def main() -> None:
    language = sys.argv[1]

    def translate(line: str) -> str:
        if not line.strip():
            return line
        rules = f"Translate into {language}. Answer with the translation alone."
        answer = ask("auto:batch-translation", [system(rules), user(line)], max_tokens=2 * len(line) + 100)
        return (answer.choices[0].message.content or "").replace("\n", " ")

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for translated in pool.map(translate, sys.stdin.read().splitlines()):
            print(translated)


main()
