"""HTTP endpoints: what is read from a request, and what is replied."""
