"""Whether the official packages are here."""

from tests.interop.conftest import node as node
