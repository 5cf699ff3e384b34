"""Rooms: how members find each other, prove membership, tell what they offer and ask for chunks."""
