"""Ask questions about all texts of a folder. No retrieval: the folder is the prompt, and cached after the first."""

import sys
from pathlib import Path

from client import ask, system, user


def main() -> None:
    folder, questions = Path(sys.argv[1]), sys.argv[2:]
    # Sorted, because the cache only knows prompts that begin alike.
    texts = [f"# {path.name}\n{path.read_text()}" for path in sorted(folder.glob("*.md"))]
    corpus = system("Answer from these texts only, and name the file.\n\n" + "\n\n".join(texts))
    for question in questions:
        answer = ask("auto:in-context-rag", [corpus, user(question)], max_tokens=1_000)
        usage = answer.usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        print(f"{question}\n{answer.choices[0].message.content}")
        print(f"({usage.prompt_tokens} tokens read, {usage.prompt_tokens_details.cached_tokens} of them cached)\n")


main()
