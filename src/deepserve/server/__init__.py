"""HTTP: routes, access, bodies, delivery of answers. Knows dialects and the gateway; no engine, no prompt, no SQL."""
