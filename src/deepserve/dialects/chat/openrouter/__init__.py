"""Chat Completions as OpenRouter speaks it: what differs from the vendor's own flavour.

`request` reads what is added to the body (`slugs`, `provider`, `plugins`, `reasoning`), `response` and `stream` write
answers with cost and provider, `errors` the service's error object. Nothing here knows HTTP.
"""
