"""A coding agent in one loop: Flash for most turns, Pro where the task is hard or a call of Flash's does not fit."""

import json
import sys
from pathlib import Path

from client import ask, system, user

MAX_TURNS = 20


def tool(name: str, description: str, *arguments: str) -> dict[str, object]:
    parameters = {
        "type": "object",
        "properties": {argument: {"type": "string"} for argument in arguments},
        "required": list(arguments),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = [
    tool("list_files", "Names of all files."),
    tool("read_file", "The text of a file.", "name"),
    tool("write_file", "Replace the text of a file, or make a new one.", "name", "text"),
]


def carry_out(folder: Path, name: str, arguments: dict[str, str]) -> str:
    if name == "list_files":
        return "\n".join(str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file())
    path = (folder / arguments["name"]).resolve()
    if not path.is_relative_to(folder):
        return "This is outside of the folder."
    if name == "write_file":
        path.write_text(arguments["text"])
        return "Written."
    return path.read_text() if path.is_file() else "There is no such file."


def main() -> None:
    folder, task = Path(sys.argv[1]).resolve(), sys.argv[2]
    messages: list[object] = [system("You change the files of a folder. Use the tools; say what you did."), user(task)]
    for _ in range(MAX_TURNS):
        message = ask("auto:coding-agent", messages, tools=TOOLS).choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            print(message.content)
            return
        for call in message.tool_calls:
            assert call.type == "function"
            result = carry_out(folder, call.function.name, json.loads(call.function.arguments))
            print(f"{call.function.name}({call.function.arguments})", file=sys.stderr)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    sys.exit(f"Not done after {MAX_TURNS} turns.")


main()
