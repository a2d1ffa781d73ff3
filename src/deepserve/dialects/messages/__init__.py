"""Anthropic's Messages API, as DeepSeek offers it: wire to core and core to wire, as pure functions.

`request` holds the question, `response` the whole answer, `stream` its events, `errors` the one table of refusals,
`server_tools` what happens to tools that Anthropic would run itself. Nothing here knows HTTP.
"""
