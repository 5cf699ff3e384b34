"""Whole-product tests: real sidecars, real sockets, real stores; only Ollama itself is a stand-in."""
