"""Where a socket is."""

from typing import NamedTuple


class Address(NamedTuple):
    """An IP address in text form and a port in host order."""

    host: str
    port: int
