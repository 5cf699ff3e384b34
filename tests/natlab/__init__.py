"""Peers behind real kernel NAT, in network namespaces of this machine: see docs/nat-lab.md."""
