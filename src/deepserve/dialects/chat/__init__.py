"""Chat Completions, as DeepSeek and its resellers speak it: wire to core and core to wire, as pure functions.

`request` and `response` hold whole bodies, `stream` the chunks, `errors` the one table of refusals, `flavour` what
differs between the sites that speak this dialect. Nothing here knows HTTP.
"""
