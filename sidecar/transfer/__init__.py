"""Chunks of blobs from and to peers: which, from whom, verified, resumable, and fair. Knows nothing of rooms."""
