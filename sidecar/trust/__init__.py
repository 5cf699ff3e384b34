"""Whom and what we believe: signatures over exact bytes, publishers by key, decisions with a reason."""
