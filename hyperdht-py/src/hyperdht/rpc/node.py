"""A node of the DHT without sockets."""


class RpcNode:
    """An endpoint with its queries and its life: bootstrap, ticks, firewall test."""
