"""One suite for the stand-in and for a real Ollama server, so that the stand-in stays honest."""
