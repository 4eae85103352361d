"""When a request runs: admission, queue, deadline, and the engine it runs on."""
