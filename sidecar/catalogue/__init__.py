"""What rooms offer: signed entries, which version counts, and what of it survives a restart."""
