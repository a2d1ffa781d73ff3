"""Plain completions with and without a hole, as DeepSeek's Beta offers them: wire to core and core to wire.

`request` and `response` hold whole bodies, `stream` the chunks, `fields` what is ignored or refused and why. Errors are
the vendor's (`dialects.vendor_errors`). Nothing here knows HTTP.
"""
