"""Tests of hyperdht. A package with a name of its own, so that it does not shadow the repository's `tests`."""
