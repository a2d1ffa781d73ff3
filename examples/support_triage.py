"""Sort a support ticket from the standard input. What the model is not sure of, or may not decide, ends at a person."""

import math
import sys

from client import ask, system, user

QUEUES = ["billing", "technical", "account", "person"]
LEAST_PROBABILITY = 0.6


def main() -> None:
    ticket = sys.stdin.read()
    rules = f"Name the queue for this ticket: {', '.join(QUEUES)}. Threats, law and refunds are for a person."
    choice = ask(
        "auto:support-triage",
        [system(rules), user(ticket)],
        logprobs=True,
        extra_body={"guided_choice": QUEUES},
    ).choices[0]
    queue = choice.message.content
    assert choice.logprobs is not None
    probability = math.exp(sum(token.logprob for token in choice.logprobs.content or []))
    if queue == "person" or probability < LEAST_PROBABILITY:
        print(f"For a person (it looks like {queue}, {probability:.0%} sure).")
        return
    draft = ask("auto:support-triage", [system("Draft a short, friendly reply."), user(ticket)], max_tokens=400)
    print(f"Queue: {queue}\n\n{draft.choices[0].message.content}")


main()
