"""One file with a signed entry, its adapter and optionally its base, for machines without a network (docs/bundle.md)."""
