"""The command line: parse, call the daemon's API, print."""
