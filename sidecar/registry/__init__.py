"""`ollama pull` from a room and `ollama push` into one: a registry on loopback that the user switches on."""
