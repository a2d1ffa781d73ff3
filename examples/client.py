"""What all examples share: a client, and one question with a word on who answered it."""

import os
import sys
from typing import Any

from openai import OpenAI
from openai.types.chat import ChatCompletion

CLIENT = OpenAI(
    base_url=os.environ.get("DEEPSERVE_URL", "http://127.0.0.1:8000/v1"), api_key=os.environ.get("DEEPSERVE_KEY", "any")
)


def ask(model: str, messages: list[Any], **options: Any) -> ChatCompletion:
    response = CLIENT.chat.completions.with_raw_response.create(model=model, messages=messages, **options)
    print(response.headers.get("x-deepserve-route"), file=sys.stderr)
    answer = response.parse()
    assert isinstance(answer, ChatCompletion)
    return answer


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}
