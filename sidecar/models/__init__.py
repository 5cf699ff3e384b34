"""Whole models: what of one is offered, and how one arrives (ADR 0012)."""
