"""The Hyperswarm stack in Python."""
