"""Engines: what runs the exported models. Each lives in a module of its own."""
