"""Adapter files: reading their headers, describing them, checking them against a base, converting PEFT folders."""
