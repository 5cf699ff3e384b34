"""Hyperswarm without I/O: which peers of which topics to connect to, and when."""
