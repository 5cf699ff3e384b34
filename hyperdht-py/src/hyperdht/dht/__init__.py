"""HyperDHT without I/O: records, announcing, connecting, hole punching."""
