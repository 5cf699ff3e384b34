"""The sidecar: rooms, catalogue, transfer, trust, install, daemon, API and CLI."""
