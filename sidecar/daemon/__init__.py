"""The daemon: parts put together, started in order, stopped within five seconds."""
