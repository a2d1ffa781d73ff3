"""Review a diff from the standard input; findings are JSON by a schema, so that a bot can post them."""

import json
import sys

from client import ask, system, user

FINDINGS = {
    "type": "object",
    "properties": {
        "findings": {
            "type": "array",
            "maxItems": 10,
            "items": {
                "type": "object",
                "properties": {
                    "file": {"type": "string", "maxLength": 200},
                    "severity": {"enum": ["bug", "risk", "style"]},
                    "comment": {"type": "string", "maxLength": 300},
                },
                "required": ["file", "severity", "comment"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["findings"],
    "additionalProperties": False,
}


def main() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "review", "strict": True, "schema": FINDINGS}}
    messages = [system("Review this diff. Report what is wrong, nothing else."), user(sys.stdin.read())]
    answer = ask("auto:code-review", messages, response_format=form, max_tokens=1_500)
    for finding in json.loads(answer.choices[0].message.content or "")["findings"]:
        print(f"{finding['severity']}: {finding['file']}: {finding['comment']}")


main()
