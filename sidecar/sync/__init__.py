"""Auto-sync: rules that share what appears in the store, and install what appears in a room."""
