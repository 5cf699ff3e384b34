"""Everything that knows Ollama, and nothing that knows peers."""
