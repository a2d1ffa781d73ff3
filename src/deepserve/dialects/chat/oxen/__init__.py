"""Chat Completions as Oxen.ai speaks it: the vendor's flavour with cost in the usage, and two shapes of errors.

`schema` describes the body as the service's model lists do. Nothing here knows HTTP.
"""
