"""MCP servers of the operator's, whose functions models may call. Needs the extra `mcp`."""
