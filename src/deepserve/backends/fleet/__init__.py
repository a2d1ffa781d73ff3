"""Several back ends that answer as one: upstreams in chains, and our own engine among them."""
