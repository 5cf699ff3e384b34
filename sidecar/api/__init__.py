"""The control API: every verb a user has, over loopback HTTP."""
