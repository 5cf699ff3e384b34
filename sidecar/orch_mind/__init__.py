"""Talking to Orch-Mind: its rooms, its messages, its faults (docs/orch-mind.md). Opt-in; nothing from there is trusted."""
