"""Around every request: the protocol, middleware, API keys and error replies."""
