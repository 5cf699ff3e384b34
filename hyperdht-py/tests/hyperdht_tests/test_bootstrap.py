"""Names of bootstrap nodes, and the addresses of this machine."""

import ipaddress

import pytest

from hyperdht import LocalProtocolError
from hyperdht.addresses import Address
from hyperdht.io.bootstrap import PUBLIC_NODES, BootstrapNode, known_addresses, resolve
from hyperdht.io.interfaces import local_hosts


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("10.0.0.1:49737", BootstrapNode(Address("10.0.0.1", 49737), "10.0.0.1", 49737)),
        ("10.0.0.1@node.example:1", BootstrapNode(Address("10.0.0.1", 1), "node.example", 1)),
        ("node.example:65535", BootstrapNode(None, "node.example", 65535)),
    ],
)
def test_a_bootstrap_node_has_an_address_a_name_or_both(text: str, node: BootstrapNode) -> None:
    assert BootstrapNode.parse(text) == node


@pytest.mark.parametrize(
    "text", ["", "node.example", "node.example:", "node.example:0", "node.example:65536", ":1", "1@:2"]
)
def test_anything_else_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(LocalProtocolError, match="host:port"):
        BootstrapNode.parse(text)


def test_the_public_nodes_can_be_asked_without_a_name_server() -> None:
    assert len(known_addresses(map(BootstrapNode.parse, PUBLIC_NODES))) == 3


@pytest.mark.anyio
async def test_names_are_resolved_and_unknown_ones_left_out() -> None:
    nodes = [BootstrapNode.parse(text) for text in ("nobody.invalid:1", "localhost:7")]
    assert await resolve(nodes) == [Address("127.0.0.1", 7)]


def test_a_socket_bound_to_one_address_is_reached_there_alone() -> None:
    assert local_hosts("127.0.0.1") == ("127.0.0.1",)


def test_a_socket_bound_to_all_is_reached_on_every_interface() -> None:
    hosts = local_hosts("0.0.0.0")
    assert hosts
    assert all(ipaddress.IPv4Address(host) for host in hosts)
