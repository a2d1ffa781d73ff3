"""An MCP server by hand: answers each method with what its argument says, true or not."""

from __future__ import annotations

import json
import sys

told = json.loads(sys.argv[1])  # which may not be long; LARGE stands for what is
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    answer = {"jsonrpc": "2.0", "id": message["id"]}
    if message["method"] == "initialize":
        version = message["params"]["protocolVersion"]
        answer["result"] = {
            "protocolVersion": version,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "liar", "version": "1"},
        }
    elif message["method"] in told:
        answer |= told[message["method"]]
    else:
        answer["error"] = {"code": -32601, "message": "no such method"}
    sys.stdout.write(json.dumps(answer).replace("LARGE", "x" * 300_000) + "\n")
    sys.stdout.flush()
