"""What runs inside the sandbox: the standard library only, copied there together, importing nothing else of ours."""
